"""A planted model by name: how it is grown, what it is asked, and what is true of it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from ...core.errors import UsageError, suggest
from .architecture import ARCHITECTURES, Architecture
from .construction import Construction
from .plan import Plan
from .prompt import Pair, Prompt
from .task import TASKS, Task
from .truth import Truth

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from ..model import LanguageModel
    from ..model_config import ModelConfig

PREFIX = "planted-"


@dataclass(frozen=True)
class PlantedModel:
    """The model of `task` in `architecture`. Its weights are computed, never stored."""

    name: str
    task_name: str
    architecture_name: str

    def grow(self, dtype: torch.dtype = torch.float32) -> LanguageModel:
        """The model, on the CPU; its weights are computed in float64 whatever the dtype."""
        model = deepcopy(self._built[0]).to(dtype)
        return model.requires_grad_(True).eval()

    @cached_property
    def truth(self) -> Truth:
        """The circuit."""
        return self._built[1]

    @cached_property
    def plan(self) -> Plan:
        """What the circuit does, as this architecture carries it out."""
        return self._architecture.prepared(self.task.plan(self.architecture_name))

    @property
    def task(self) -> Task:
        """The task, with its prompts."""
        return TASKS.get(self.task_name)

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self._architecture.config(self.plan)

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary: the token of `words[i]` is i."""
        return tuple(word.text for word in self.plan.words)

    @property
    def chance(self) -> float:
        """The share of prompts that a model answers which always says the same answer."""
        return 1.0 / len(self.plan.answers)

    def prompts(self, n: int, seed: int = 0) -> tuple[Prompt, ...]:
        """See `Task.prompts`."""
        return self.task.prompts(n, seed)

    def pairs(self, n: int, seed: int = 0, place: str | None = None) -> tuple[Pair, ...]:
        """See `Task.pairs`."""
        return self.task.pairs(n, seed, place)

    @property
    def _architecture(self) -> Architecture:
        return ARCHITECTURES.get(self.architecture_name)

    @cached_property
    def _built(self) -> tuple[LanguageModel, Truth]:
        from ..building import build

        architecture, plan = self._architecture, self.plan
        model = build(self.config, dtype=torch.float64, tokenizer=word_tokenizer(self.words))
        with torch.no_grad():
            work = Construction(model, plan, zlib.crc32(self.name.encode()))
            work.embed()
            for layer, block in enumerate(plan.blocks):
                architecture.block(work, layer, block)
        model.name = self.name
        return model, work.truth()


def word_tokenizer(words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are these words, between white space; it refuses any other word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def is_planted(name: object) -> bool:
    """Whether this is the name of a planted model, or of one that cannot be (`find_planted` says why)."""
    return isinstance(name, str) and name.startswith(PREFIX) and (name in planted_names() or name in _refused())


def planted_names() -> tuple[str, ...]:
    """Every planted model: each task in each architecture that can carry it out."""
    return tuple(name for name, _, _ in _every())


def find_planted(name: str) -> PlantedModel:
    """The planted model of that name. Raises UsageError with the nearest name, and with the reason for one of a task
    that the architecture cannot carry out."""
    if name in _refused():
        raise UsageError(f"there is no {name}: {_refused()[name]}")
    known = {known: PlantedModel(known, task, architecture) for known, task, architecture in _every()}
    if name not in known:
        raise UsageError(f"there is no planted model {name!r}; {suggest(name, known, limit=30)}")
    return _KNOWN.setdefault(name, known[name])


_KNOWN: dict[str, PlantedModel] = {}


def _every() -> Iterator[tuple[str, str, str]]:
    for task in TASKS.names():
        for architecture in ARCHITECTURES.names():
            if architecture not in TASKS.get(task).cannot:
                yield _name(task, architecture), task, architecture


def _refused() -> dict[str, str]:
    """Name -> why there is no such model."""
    every = TASKS.all()
    return {_name(t, architecture): why for t in every for architecture, why in every[t].cannot.items()}


def _name(task: str, architecture: str) -> str:
    return f"{PREFIX}{task}-{architecture}".replace("_", "-")
