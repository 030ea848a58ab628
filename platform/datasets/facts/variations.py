"""The same questions in other words, and among more facts: what an answer must not depend on.

    reworded    every sentence of the text and the question in another shape of the same split: same facts, same order
    lengthened  more facts about others at random places: same facts, same words, same question

What is varied is a question that `prompts` made; it is drawn again from its seed, so that facts are changed and not
strings. A variation has the id of its original in `derived_from`, so that both count as one, and an id of its own.

Promises: no further fact names an entity of the original, and no (subject, relation) is stated twice, so the answer
stays the only one; the same seed gives the same variations, whichever others are made. Worked examples before a prompt
stay as they are. Raises UsageError for questions that were not made with this seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from ...core.errors import UsageError
from ..records import Question
from .asked import Asked
from .distances import Fillers
from .names import entities
from .prompts import draw
from .relations import questions as question_shapes
from .relations import statements

Vary = Callable[[Asked, Random], Asked]


def reworded(questions: Sequence[Question], *, seed: int) -> list[Question]:
    """`questions` in other words. seed: with which they were made. Raises UsageError as the module says."""
    return _varied(questions, "reworded", _reworded, seed)


def lengthened(questions: Sequence[Question], extra: int, *, seed: int) -> list[Question]:
    """`questions` with `extra` more facts each. seed: with which they were made.

    Raises UsageError as the module says, for fewer than one fact, and where the names of the world are used up.
    """
    if extra < 1:
        raise UsageError(f"a text is lengthened by at least one fact, not by {extra}")
    return _varied(questions, f"longer{extra}", partial(_lengthened, extra=extra), seed)


def _varied(questions: Sequence[Question], kind: str, vary: Vary, seed: int) -> list[Question]:
    originals = _asked(questions, seed)
    made: list[Question] = []
    for question, asked in zip(questions, originals, strict=True):
        prompt = question.prompt or ""
        changed = vary(asked, Random(f"facts-{kind}-{seed}-{asked.id}"))._replace(
            id=f"{asked.id}-{kind}", derived_from=asked.id, note=f"{kind}; {asked.note}"
        )
        made.append(replace(changed.record(prompt[: len(prompt) - len(asked.text)]), group=question.group))
    return made


def _asked(questions: Sequence[Question], seed: int) -> list[Asked]:
    """How `questions` were drawn."""
    wanted: dict[tuple[str, str], int] = {}
    for question in questions:
        name = question.id.removeprefix("facts-").split("-")
        if question.dataset != "facts" or question.control or question.derived_from or len(name) < 3:
            raise UsageError(f"{question.id}: only original questions of the facts world can be varied")
        stream, number = "-".join(name[:-3]), name[-1]
        if not number.isdecimal():
            raise UsageError(f"{question.id}: not the id of a question of the facts world")
        wanted[stream, question.split] = max(wanted.get((stream, question.split), 0), int(number) + 1)
    there = {
        asked.id: asked
        for (stream, split), per_level in wanted.items()
        for asked in draw(per_level, seed, split, entities(split), stream)
    }
    for question in questions:
        asked = there.get(question.id)
        if asked is None or not (question.prompt or "").endswith(asked.text):
            raise UsageError(
                f"{question.id}: not made with seed {seed}; vary questions with the seed they were made with"
            )
    return [there[question.id] for question in questions]


def _reworded(asked: Asked, rng: Random) -> Asked:
    shapes = [shape for shape in question_shapes(asked.path, asked.split) if shape != asked.shape]
    stated = tuple(
        s._replace(shape=rng.choice([o for o in statements(s.fact.relation, asked.split) if o != s.shape]))
        for s in asked.stated
    )
    return asked._replace(shape=rng.choice(shapes), stated=stated)


def _lengthened(asked: Asked, rng: Random, extra: int) -> Asked:
    # what the fillers must not name is what the evidence names, and here that is everything there is
    fillers = Fillers(asked._replace(evidence=tuple(range(len(asked.stated)))), entities(asked.split), rng)
    new = fillers.facts(extra)
    places = sorted(rng.sample(range(len(asked.stated) + extra), extra))
    stated = list(asked.stated)
    for place, filler in zip(places, new, strict=True):
        stated.insert(place, filler)
    kept = [i for i in range(len(stated)) if i not in set(places)]
    return asked._replace(stated=tuple(stated), evidence=tuple(kept[i] for i in asked.evidence))
