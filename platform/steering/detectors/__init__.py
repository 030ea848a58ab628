"""Detectors: which channels of a site are worth changing, as the development questions show it. One file each.

    @detector("cosine", signed=True)
    def cosine(seen: Observed) -> Tensor:
        \"\"\"What it is. Sees: ... Blind to: ...\"\"\"

A detector gives every channel a number; the higher it is, the rather the channel is to be changed. A *signed* one says
in which direction: positive where a larger channel makes the right answers more probable, negative where a smaller one
does. It is a pure function of one pass over the development questions (`observe`), sees no test question, and is no
evidence: a search tries what detectors point at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...core.registry import Registry
from .observation import Observed, Tap, channels_of, observe, observed, sums_of

Detect = Callable[[Observed], Tensor]


@dataclass(frozen=True)
class Detector:
    """A registered detector. signed: its sign is a direction, and its size says how sure. meaning: one sentence."""

    name: str
    detect: Detect
    signed: bool
    meaning: str

    def __call__(self, seen: Observed) -> Tensor:
        """The number of each channel (C,), float64."""
        return self.detect(seen)

    def order(self, seen: Observed) -> list[int]:
        """All channels, those most worth changing first: by size where the detector is signed; ties by channel."""
        scores = self(seen)
        key = scores.abs() if self.signed else scores
        return [int(channel) for channel in key.argsort(descending=True, stable=True)]


DETECTORS: Registry[Detector] = Registry("detector of channels", "detector", f"{__name__}.detectors")
detector_names, find_detector = DETECTORS.names, DETECTORS.get


def detector(name: str, *, signed: bool) -> Callable[[Detect], Detect]:
    """Register a function (Observed) -> (C,); the first sentence of its docstring is its meaning."""

    def register(detect: Detect) -> Detect:
        meaning = (detect.__doc__ or "").strip().split("\n\n")[0]
        DETECTORS.add(name, Detector(name, detect, signed, " ".join(meaning.split())), detect.__module__)
        return detect

    return register


__all__ = [
    "DETECTORS", "Detector", "Observed", "Tap", "channels_of", "detector", "detector_names", "find_detector", "observe",
    "observed", "sums_of",
]  # fmt: skip
