"""Generated prompts: six levels of in-context questions, 100 each, whose answer is one of the stated words.

    level 1 simple_recall   1 hop,  1-4 facts        level 4 long_context   1 hop,  5-7 facts
    level 2 two_hop         2 hops, 2-4 facts        level 5 combined       2 hops, 5-7 facts
    level 3 three_hop       3 hops, 3-4 facts        level 6 stress_test    1 or 2 hops in turn, 10-16 facts

Promises: names and sentence shapes of the split "eval" occur in no training text; each item is a pure function of seed,
level and number; within a call no two items of a level ask the same question; facts come in random order.

Chance: who answers with a random stated entity of the right kind other than the one asked about gets an exact match of
0.50, 0.49, 0.54, 0.18, 0.25, 0.10 on levels 1-6; with the last stated one 0.55, 0.48, 0.51, 0.24, 0.28, 0.14 (3,000
prompts of seed 7). On the short levels 1-3 the kind alone says much; compare with these numbers, not with 0.

What it does not do: it does not divide the items into development and test sets.

A prompt opens with a space, so that the first name has the same tokens as the others, and ends with "A:"; the answer
that a trained model gives is " <answer>\\n". Everything an analysis may condition on is in the record: hops, n_facts,
distractors (in `reason`), evidence and its distance to the question.

From these questions others are made on request: `controls` that nothing answers, `distances` of the evidence, and
`examples` before the prompt. None of them changes which questions are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from ...core.errors import UsageError
from ..records import CATEGORIES, Question
from .asked import Asked, Stated
from .controls import controls_of
from .distances import LEVELS_SWEPT, check_distances, sweep
from .examples import header
from .names import Entities, entities
from .relations import PATHS, RELATIONS, Path, questions, statements
from .world import sample_facts


class Level(NamedTuple):
    """What a level asks for; item number i has `hops[i % len(hops)]` hops."""

    hops: tuple[int, ...]
    min_facts: int
    max_facts: int


LEVELS: dict[int, Level] = {
    1: Level((1,), 1, 4),
    2: Level((2,), 2, 4),
    3: Level((3,), 3, 4),
    4: Level((1,), 5, 7),
    5: Level((2,), 5, 7),
    6: Level((1, 2), 10, 16),
}

PATIENCE = 2000  # draws in a row that repeat a question before a level counts as used up


def distinct_questions(level: int, split: str = "eval") -> int:
    """How many different questions a level can ask: head entities times question shapes, over its chains."""
    pool = entities(split)
    total = [
        sum(len(pool[RELATIONS[path[0]].subject]) * len(questions(path, split)) for path in PATHS[hops])
        for hops in LEVELS[level].hops
    ]
    return min(total) * len(total)


def _item(rng: Random, names: Entities, split: str, level: int, hops: int, item_id: str) -> Asked:
    spec = LEVELS[level]
    path: Path = rng.choice(PATHS[hops])
    n_facts = rng.randint(spec.min_facts, spec.max_facts)
    facts = sample_facts(rng, names, [path], n_facts)
    order = list(range(n_facts))
    rng.shuffle(order)
    stated = tuple(Stated(facts[i], rng.choice(statements(facts[i].relation, split))) for i in order)
    return Asked(
        id=item_id,
        split=split,
        level=level,
        path=path,
        head=facts[0].subject,
        answer=facts[hops - 1].object,
        shape=rng.choice(questions(path, split)),
        stated=stated,
        evidence=tuple(order.index(i) for i in range(hops)),
    )


def prompts(
    per_level: int = 100,
    seed: int = 0,
    split: str = "eval",
    *,
    controls: Sequence[str] = (),
    distances: Sequence[int] = (),
    unit: str = "tokens",
    shots: int = 0,
    stream: str = "",
) -> list[Question]:
    """`per_level` questions for each of levels 1-6, in order of level; then their controls, in the same order.

    `split="train"` makes them of training names and shapes, to tell what was learned from what generalises.
    controls: kinds of `controls.control_names()`. distances: instead of the questions of all levels, those of levels
    1-3 at each of these distances (`distances.sweep`), counted in `unit`. shots: worked examples before each prompt.
    stream: for whom they are drawn, part of the seed and of the ids, so that equal seeds give others there; "" is what
    `mplat prompts` makes and `mplat eval` asks.

    Raises UsageError where `per_level` is not positive or exceeds a level's distinct questions, for another split, and
    for controls, distances or shots that do not exist.
    """
    names = entities(split)
    if distances:
        check_distances(distances, unit)
    drawn = draw(per_level, seed, split, names, stream)
    if distances:
        drawn = [
            at for asked in drawn if asked.level in LEVELS_SWEPT for at in sweep(asked, distances, unit, names, seed)
        ]
    drawn += [made for asked in drawn for made in controls_of(asked, controls, names, seed)]
    return [asked.record(header(asked, shots, seed)) for asked in drawn]


def draw(per_level: int, seed: int, split: str, names: Entities, stream: str) -> list[Asked]:
    """The questions themselves, before they are text; more of them only adds at the end of each level.

    Raises UsageError as `prompts`.
    """
    called = f"-{stream}" if stream else ""
    if per_level <= 0:
        raise UsageError(f"prompts: per_level must be at least 1, not {per_level}")
    made: list[Asked] = []
    for level, spec in LEVELS.items():
        limit = distinct_questions(level, split)
        too_many = UsageError(
            f"prompts: level {level} ({CATEGORIES[level - 1]}) has no {per_level} distinct questions, "
            f"only about {limit}; ask for fewer per level"
        )
        if per_level > limit:
            raise too_many
        asked: set[str] = set()
        rng = Random(f"facts{called}-{split}-{seed}-L{level}")
        for i in range(per_level):
            for _ in range(PATIENCE):
                item = _item(
                    rng, names, split, level, spec.hops[i % len(spec.hops)], f"facts{called}-{split}-L{level}-{i:04d}"
                )
                if item.question not in asked:
                    break
            else:
                raise too_many
            asked.add(item.question)
            made.append(item)
    return made
