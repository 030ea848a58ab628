"""The evidence beside other tokens: a number of its span, and the same of every other span of as many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..engine.batches import spread
from ..methods.evidence import Span


class Beside(NamedTuple):
    """value: of the evidence. Of the `n` others median, mean, largest and smallest, and the share above `value`; None
    where there are none."""

    value: float
    n: int
    median: float | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None

    @classmethod
    def of(cls, value: float, others: Sequence[float]) -> Beside:
        """`value` beside `others`."""
        if not len(others):
            return cls(value, 0)
        them = np.asarray(others, dtype=float)
        numbers = (np.median(them), them.mean(), them.min(), them.max(), (them > value).mean())
        return cls(value, len(them), *(float(number) for number in numbers))


def other_spans(length: int, span: Span) -> list[Span]:
    """Every span of as many tokens that shares none with `span`, and none of which is the last of the prompt."""
    start, stop = span
    width = stop - start
    starts = range(length - width)
    return [(s, s + width) for s in starts if s + width <= start or s >= stop]


def some_spans(length: int, span: Span, count: int) -> list[Span]:
    """At most `count` of them, spread evenly over the prompt, no two of which share a token."""
    apart: list[Span] = []
    for one in other_spans(length, span):
        if not apart or one[0] >= apart[-1][1]:
            apart.append(one)
    return spread(apart, count)


def mean_beside(sizes: Sequence[float], span: Span) -> Beside:
    """The mean of `sizes`, one for each token, over `span`, beside that over every other span."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(sizes, dtype=float))])

    def mean(one: Span) -> float:
        return float((total[one[1]] - total[one[0]]) / (one[1] - one[0]))

    return Beside.of(mean(span), [mean(one) for one in other_spans(len(sizes), span)])
