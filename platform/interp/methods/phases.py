"""Phases of a training: where its curves change, over the logarithm of the training step.

Losses are looked at as logarithms too, as they are drawn: from 0.05 to 0.5 nats what is remembered has gone as far as
from 0.5 to 5. Names after Nanda et al. 2023 (arXiv 2301.05217), section 5.2, who set the borders by eye; here they are
the change points of the best ramp (`change_points`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .change_points import FEWEST, Ramp, best_ramp


class Curve(NamedTuple):
    """The curve of a phase: its measure, the point where it is looked at from, and the sign of its change; with 0 any
    change will do."""

    measure: str
    start: Callable[[Sequence[float]], int]
    sign: int


def _whole(values: Sequence[float]) -> int:
    return 0


def _least(values: Sequence[float]) -> int:
    return int(np.argmin(values))


def _largest(values: Sequence[float]) -> int:
    return int(np.argmax(values))


#: what is trained on is learned; what is computed takes the place of what is remembered; the rule holds for all
PHASES: Mapping[str, Curve] = {
    "memorisation": Curve("train_loss", _whole, -1),
    "circuit formation": Curve("excluded_loss", _least, 1),
    "cleanup": Curve("held_out_loss", _largest, -1),
    "loss": Curve("loss", _whole, 0),
    "weights": Curve("sum_of_squares", _whole, 0),
    "embeddings": Curve("embedding_rank", _whole, 0),
}


class Phase(NamedTuple):
    """ramp: in training steps and in units of the measure; None where there is none, for `reason`. points: of the curve
    in which it was looked for."""

    points: int
    ramp: Ramp | None
    reason: str | None = None


def phase_of(curve: Curve, values: Mapping[int, float], *, seed: int, draws: int, confidence: float) -> Phase:
    """The change of `values`, by training step from 1 on in any order."""
    steps = sorted(step for step in values if step > 0)  # step 0 has no logarithm
    heights = [values[step] for step in steps]
    first = curve.start(heights) if heights else 0
    steps, heights = steps[first:], heights[first:]
    points = len(steps)
    if points < FEWEST:
        return Phase(points, None, f"{points} checkpoints of one training with this measure; a change needs {FEWEST}")
    logarithmic = curve.measure.endswith("loss")
    if logarithmic and min(heights) <= 0.0:
        return Phase(points, None, "a loss is 0 in floating point, and has no logarithm")
    y = np.log(heights) if logarithmic else np.array(heights)
    ramp = best_ramp(np.log10(steps), y, seed=seed, draws=draws, confidence=confidence)
    if ramp is None:
        return Phase(points, None, "the curve does not change")
    if curve.sign * (ramp.after - ramp.before) < 0:
        return Phase(points, None, f"the curve does not {'rise' if curve.sign > 0 else 'fall'}")
    ends = {name: float(round(10 ** getattr(ramp, name))) for name in ENDS}
    levels = {"before": math.exp(ramp.before), "after": math.exp(ramp.after)} if logarithmic else {}
    return Phase(points, ramp._replace(**ends, **levels))


#: fields of a ramp that are training steps
ENDS = ("begins", "begins_low", "begins_high", "ends", "ends_low", "ends_high")
