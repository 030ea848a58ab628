"""Which questions may be looked at while steering is tuned (development) and which only judge it (test).

The side of a question is a pure function of seed and origin: a hash below the development share is development. The
origin is the group of a question (its document, its article, the entity that it asks about), else the question it was
made from. So nothing of a document lies on both sides, what was made from a question (a control, the same at another
distance) lies on its side, and adding questions or reordering them moves none: a recipe that was found on some of them
can be judged on the others later.

The price is that shares are right only on average, in every category alike; `counts` says what they are. Where few
documents are many questions, a hash alone may leave a category without questions on one side. `split` then moves the
document that lies nearest to the border, and no other.

The questions that discovery really uses are a fixed-size choice from the development side, equal numbers from every
category. That choice may change when questions are added; the sides do not.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from ..core.errors import UsageError
from ..datasets.records import Question

Side = Literal["development", "test"]
DEVELOPMENT: Side = "development"
TEST: Side = "test"
UNANSWERABLE = "unanswerable"  # in tables, the side of controls that their text does not answer: they judge nothing


def position(seed: int, name: str, stream: str = "") -> float:
    """A number in [0, 1) that only these decide. Parts are length-prefixed: no two lists of them share a text."""
    parts = [str(seed), name, *([stream] if stream else [])]
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def side(question: Question, *, seed: int, share: float) -> Side:
    """The side of one question by its hash; `share` is the expected share of development questions.

    Raises UsageError for a share that does not lie between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"the development share must lie strictly between 0 and 1, not {share}")
    return DEVELOPMENT if position(seed, question.origin) < share else TEST


def split(questions: Iterable[Question], *, seed: int, share: float) -> tuple[list[Question], list[Question]]:
    """(development, test), each in the order given. Raises UsageError as `side`.

    A category has questions on both sides where at least half an origin of it was to be expected there and moving whole
    origins can give it one.
    """
    asked = list(questions)
    sides = {question.origin: side(question, seed=seed, share=share) for question in asked}
    categories: dict[str, set[str]] = defaultdict(set)  # of each origin
    for question in asked:
        categories[question.origin].add(question.category)
    nearest = sorted(sides, key=lambda origin: (abs(position(seed, origin) - share), origin))
    numbers = {at: Counter[str]() for at in (DEVELOPMENT, TEST)}  # of origins of each category
    for origin, at in sides.items():
        numbers[at].update(categories[origin])
    for category in sorted({name for names in categories.values() for name in names}):
        for at, other, expected in ((DEVELOPMENT, TEST, share), (TEST, DEVELOPMENT, 1 - share)):
            if numbers[at][category] or expected * numbers[other][category] < 0.5:
                continue
            for origin in nearest:
                its = categories[origin]
                if sides[origin] == other and category in its and all(numbers[other][name] > 1 for name in its):
                    sides[origin] = at
                    numbers[at].update(its)
                    numbers[other].subtract(its)
                    break
    development = [question for question in asked if sides[question.origin] == DEVELOPMENT]
    return development, [question for question in asked if sides[question.origin] == TEST]


def choose(questions: Sequence[Question], limit: int, *, seed: int, stream: str = "") -> list[Question]:
    """At most `limit` questions, as equal numbers per category as there are, in the order given.

    Those of the origins with the smallest hash are taken, in every category the same ones, so that a larger limit only
    adds, and what was made from one question or belongs to one document stays together as far as the limit reaches.
    `stream` names the hash: a choice made before the split needs one of its own, or the smallest of the split's hash
    would all be development.
    """

    def place(question: Question) -> tuple[float, float]:
        return position(seed, question.origin, stream), position(seed, question.original, stream)

    queues: dict[str, list[Question]] = defaultdict(list)
    for question in sorted(questions, key=place):
        queues[question.category].append(question)
    chosen: set[str] = set()
    for rank in range(max(map(len, queues.values()), default=0)):
        for category in sorted(queues):
            if rank < len(queues[category]) and len(chosen) < limit:
                chosen.add(queues[category][rank].id)
    return [q for q in questions if q.id in chosen]


def counts(questions: Iterable[Question]) -> dict[str, int]:
    """Number of questions per category, sorted by name."""
    return dict(sorted(Counter(q.category or "unclassified" for q in questions).items()))
