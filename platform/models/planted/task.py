"""What a planted task is, and the decorator that makes one: one file in `tasks/`.

    @planted("my_task")
    class MyTask(Task):
        "One sentence for the list of tasks."
        places = ("value", "query")       # words that a pair may differ in, the first by default
        def plan(self, architecture): ...  # what the circuit does, see `plan`
        def sample(self, rng, answer): ... # a prompt with that answer
        def swapped(self, prompt, place, rng): ...  # the same with another word there, and its answer

A sample depends on `rng` alone. `Task.prompts` and `Task.pairs` make lists of them, in which answers are as frequent as
each other. An architecture that cannot carry the plan out is named in `cannot`, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import ClassVar

from ...core.errors import UsageError, suggest
from ...core.registry import Registry
from .plan import Plan
from .prompt import Pair, Prompt

_PATIENCE = 500  # draws in a row that repeat a prompt


class Task:
    """Base of the tasks."""

    name: ClassVar[str] = ""
    places: ClassVar[tuple[str, ...]] = ("value",)
    #: architecture -> why its model of this task does not exist
    cannot: ClassVar[Mapping[str, str]] = {}

    def plan(self, architecture: str) -> Plan:
        """What the circuit does, as `architecture` can do it."""
        raise UsageError(f"planted task {self.name} has no plan")

    def sample(self, rng: Random, answer: str) -> Prompt:
        """A prompt with this answer."""
        raise UsageError(f"planted task {self.name} has no prompts")

    def swapped(self, prompt: Prompt, place: str, rng: Random) -> Prompt:
        """`prompt` with another word at `place`, so that its answer is another one."""
        raise UsageError(f"planted task {self.name} has no pairs")

    @property
    def meaning(self) -> str:
        """The first line of its docstring."""
        return (self.__doc__ or "").strip().split("\n")[0]

    def prompts(self, n: int, seed: int = 0) -> tuple[Prompt, ...]:
        """`n` prompts, none of them twice, with every answer as often as any other (up to one).

        Raises UsageError for `n` below 1, and where there are not so many."""
        if n < 1:
            raise UsageError(f"planted task {self.name}: {n} prompts were asked for; ask for at least 1")
        rng = Random(f"{self.name}-{seed}")
        answers = list(self.plan("mamba").answers)
        rng.shuffle(answers)
        made: dict[str, Prompt] = {}
        tries = 0
        while len(made) < n:
            prompt = self.sample(rng, answers[len(made) % len(answers)])
            tries = tries + 1 if prompt.text in made else 0
            if tries > _PATIENCE:
                raise UsageError(f"planted task {self.name}: there are hardly more than {len(made)} prompts, not {n}")
            made.setdefault(prompt.text, prompt)
        return tuple(made.values())

    def pairs(self, n: int, seed: int = 0, place: str | None = None) -> tuple[Pair, ...]:
        """The prompts of `prompts(n, seed)`, each beside the same with another word at `place`.

        Raises UsageError as `prompts`, and for a place that is none of `places`."""
        where = self.places[0] if place is None else place
        if where not in self.places:
            raise UsageError(f"planted task {self.name} has no pairs by {where!r}; {suggest(where, self.places)}")
        rng = Random(f"{self.name}-{seed}-{where}")
        return tuple(Pair(p, self.swapped(p, where, rng), where) for p in self.prompts(n, seed))


TASKS: Registry[Task] = Registry("planted task", "planted", __name__, ".tasks")
planted = TASKS.instance
