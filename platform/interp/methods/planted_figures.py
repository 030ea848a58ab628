"""What detectors and measures of layers found on the planted benchmark; written by benchmarks/detectors.py."""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "benchmarks/results/detectors.json"


class Figure(NamedTuple):
    """Means over the plants of a kind; see `bottleneck_schema.PLANTED`."""

    detector: str
    kind: str
    plants: int
    chance: float
    precision: float
    recall: float | None
    right_sign: float | None
    undamaged: float | None
    found: int


FIGURES: tuple[Figure, ...] = ()
