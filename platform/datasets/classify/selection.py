"""Drawing a balanced, repeatable sample of classified questions.

Categories take turns, and within a category the data sets take turns, until a category has its number, a data set has
given its number, or nothing is left: rare categories are filled first in effect, and no data set crowds out another.
Of a data set, questions with a context come before those without (open questions of Natural Questions say nothing about
long contexts); among either, the order follows from the seed and the id alone, so the sample does not depend on the
order of files or of data sets, and growing a limit only adds questions.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ..records import CATEGORIES, Question


class Shortfall(NamedTuple):
    """A category that has fewer questions than wanted."""

    category: str
    wanted: int
    taken: int
    why: str


class Selection(NamedTuple):
    """The sample, ordered by category, data set and id, and what there was to draw from."""

    questions: tuple[Question, ...]
    available: dict[str, int]  # by category
    taken: dict[str, int]
    shortfalls: tuple[Shortfall, ...]


def select(questions: Iterable[Question], *, per_dataset: int, per_category: int, seed: int) -> Selection:
    """At most `per_dataset` questions of each data set and `per_category` of each category; 0 means no limit."""
    pools: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in questions:
        pools[question.category, question.dataset].append(question)
    available = Counter({category: 0 for category in CATEGORIES})
    for (category, _), pool in pools.items():
        # drawn from the end
        pool.sort(key=lambda question: (not question.context, _rank(seed, question)), reverse=True)
        available[category] += len(pool)
    turns = sorted(pools, key=lambda key: (CATEGORIES.index(key[0]), key[1]))
    taken, given = Counter({category: 0 for category in CATEGORIES}), Counter[str]()
    chosen: list[Question] = []
    while turns:
        left = []
        for category, data_set in turns:
            full = per_category and taken[category] >= per_category
            spent = per_dataset and given[data_set] >= per_dataset
            pool = pools[category, data_set]
            if full or spent or not pool:
                continue
            chosen.append(pool.pop())
            taken[category] += 1
            given[data_set] += 1
            left.append((category, data_set))
        turns = left
    chosen.sort(key=lambda question: (CATEGORIES.index(question.category), question.dataset, question.id))
    shortfalls = tuple(
        Shortfall(category, per_category, taken[category], _why(category, available, taken))
        for category in CATEGORIES
        if taken[category] < per_category
    )
    return Selection(tuple(chosen), dict(available), dict(taken), shortfalls)


def _rank(seed: int, question: Question) -> bytes:
    return hashlib.sha256(f"{seed}\0{question.dataset}\0{question.id}".encode()).digest()


def _why(category: str, available: Counter[str], taken: Counter[str]) -> str:
    if not available[category]:
        return "no question of the chosen data sets falls into it"
    if available[category] == taken[category]:
        return f"there are only {available[category]}"
    return f"{available[category]} are there, but the data sets have given --per-dataset questions"
