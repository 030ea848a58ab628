"""Which questions may be looked at while steering is tuned (development) and which only judge it (test).

The side of a question is a pure function of seed, category and the id of its origin: a hash below the development
share is development. What was made from a question (a control, the same at another distance) lies on its side. So the
two sides are disjoint, adding questions or reordering them moves none, and every category is divided by a stream of its
own. The price is that the shares are right only on average; `counts` says what they are.

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


def position(seed: int, category: str, question_id: str, stream: str = "") -> float:
    """A number in [0, 1) that only these decide. Parts are length-prefixed: no two lists of them share a text."""
    parts = [str(seed), category, question_id, *([stream] if stream else [])]
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def side(question: Question, *, seed: int, share: float) -> Side:
    """The side of one question; `share` is the expected share of development questions."""
    if not 0 < share < 1:
        raise UsageError(f"the development share must lie strictly between 0 and 1, not {share}")
    return DEVELOPMENT if position(seed, question.category, question.origin) < share else TEST


def split(questions: Iterable[Question], *, seed: int, share: float) -> tuple[list[Question], list[Question]]:
    """(development, test), each in the order given."""
    sides: dict[Side, list[Question]] = {DEVELOPMENT: [], TEST: []}
    for question in questions:
        sides[side(question, seed=seed, share=share)].append(question)
    return sides[DEVELOPMENT], sides[TEST]


def choose(questions: Sequence[Question], limit: int, *, seed: int, stream: str = "") -> list[Question]:
    """At most `limit` questions, as equal numbers per category as there are, in the order given.

    Within a category those with the smallest hash are taken, so that a larger limit only adds, and what was made from
    one question stays together. `stream` names the hash:
    a choice made before the split needs one of its own, or the smallest of the split's hash would all be development.
    """
    queues: dict[str, list[Question]] = defaultdict(list)
    for question in sorted(questions, key=lambda q: position(seed, q.category, q.origin, stream)):
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
