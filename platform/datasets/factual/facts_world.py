r"""Factual prompts of the facts world, for models that know no facts of the real one: the fact is stated in the prompt.

    " Bekdok has the boss Selgan. ...\nQ: Which person does Bekdok work for?\nA:"   the form of `facts.prompts`, one hop

What a model keeps of the fact is shown by restoring states between the statement and the question.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from ...core.errors import UsageError, suggest
from ..facts.asked import Stated
from ..facts.names import Entities, entities
from ..facts.relations import PATHS, questions, statements
from ..facts.world import sample_facts
from .records import FactualPrompt

Mention = Literal["statement", "question"]
_MENTIONS = ("statement", "question")
_PATIENCE = 2000  # draws in a row that repeat a question


def facts_world_prompts(
    n: int,
    seed: int = 0,
    *,
    n_facts: int = 4,
    behind: int | None = None,
    mention: Mention = "statement",
    split: str = "eval",
) -> list[FactualPrompt]:
    """`n` prompts of `n_facts` stated facts each, of which one is asked about; no question occurs twice.

    behind: how many other facts stand between the one asked about and the question, 0 to n_facts - 1; None: any.
    mention: whether `subject_span` is the subject's place in the statement or in the question. split: "eval" or
    "train", of names and sentence shapes. The same seed gives the same world whatever `mention`.
    Raises UsageError for numbers that do not fit, and where there are not `n` different questions.
    """
    names = entities(split)
    if mention not in _MENTIONS:
        raise UsageError(f"facts world: unknown mention {mention!r}; {suggest(str(mention), _MENTIONS)}")
    if n < 1 or n_facts < 1:
        raise UsageError(f"facts world: n is {n} and n_facts {n_facts}; both must be at least 1")
    if behind is not None and not 0 <= behind < n_facts:
        raise UsageError(f"facts world: behind is {behind}; with {n_facts} facts it can be 0 to {n_facts - 1}")
    rng = Random(f"factual-{split}-{seed}-{n_facts}-{behind}")
    made: dict[str, FactualPrompt] = {}
    tries = 0
    while len(made) < n:
        text, item = _item(rng, names, split, n_facts, behind, mention, len(made), seed)
        tries = 0 if text not in made else tries + 1
        if tries > _PATIENCE:
            raise UsageError(
                f"facts world: there are only about {len(made)} different questions; ask for fewer than {n}"
            )
        made.setdefault(text, item)
    return list(made.values())


def _item(
    rng: Random, names: Entities, split: str, n_facts: int, behind: int | None, mention: Mention, number: int, seed: int
) -> tuple[str, FactualPrompt]:
    """The question and its prompt."""
    path = rng.choice(PATHS[1])
    facts = sample_facts(rng, names, [path], n_facts)
    others = list(range(1, n_facts))
    rng.shuffle(others)
    place = n_facts - 1 - (rng.randrange(n_facts) if behind is None else behind)
    order = [*others[:place], 0, *others[place:]]
    text, spans = "", {}
    subject = facts[0].subject.strip()
    for i in order:
        sentence = Stated(facts[i], rng.choice(statements(facts[i].relation, split))).sentence
        if i == 0:
            start = len(text) + 1 + sentence.index(subject)
            spans["statement"] = (start, start + len(subject))
        text += " " + sentence
    shape = rng.choice(questions(path, split))
    question = (shape.before + facts[0].subject + shape.after).strip()
    text += "\nQ: "
    start = len(text) + question.index(subject)
    spans["question"] = (start, start + len(subject))
    return question, FactualPrompt(
        id=f"facts-{split}-{seed}-{number:04d}",
        dataset="facts_world",
        prompt=f"{text}{question}\nA:",
        subject=subject,
        subject_span=spans[mention],
        answer=facts[0].object.strip(),
        relation=path[0],
        licence="MIT",
    )
