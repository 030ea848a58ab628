"""The strength at which edits have a given dose, so that a control is as strong as what it controls for.

    meter = DoseMeter(model, rows)
    wanted = meter.of(recipe_edits).norm
    found = matched_strength(meter, lambda s: [Scale("blocks.2.mixer_out", s, channels=others)], wanted, bounds=(1, 50))

Strengths are continuous, so the dose is met and not merely approached from a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..core.errors import InputError, UsageError
from .dose import Dose, DoseMeter, Measured

if TYPE_CHECKING:
    from ..models import Edit

_DOUBLINGS = 10  # the first step is 1/1024 of the way
_HALVINGS = 40


class Matched(NamedTuple):
    """A strength, the dose that it has, and how many doses were measured to find it."""

    strength: float
    dose: Dose
    evaluations: int


def matched_strength(
    meter: DoseMeter,
    make_edits: Callable[[float], Sequence[Edit]],
    target: float,
    *,
    measure: Measured = "norm",
    bounds: tuple[float, float],
    tolerance: float = 0.01,
) -> Matched:
    """The strength at which `make_edits(strength)` has the dose `target`, within `tolerance` of it.

    bounds: a strength with a smaller dose (the identity: 1 for a factor, 0 for what is added), and the furthest one
    that may be used, on either side. The search doubles its step from the first towards the second until the dose is
    reached, and halves what lies between; where doses do not rise evenly it finds the first crossing.

    Raises UsageError for a target that is no positive number, and InputError where the dose is not reached within the
    bounds, with the largest that is, or jumps over the target.
    """
    if not (math.isfinite(target) and target > 0):
        raise UsageError(f"a dose to match is a positive number, not {target!r}")
    start, furthest = bounds
    if start == furthest or not (math.isfinite(start) and math.isfinite(furthest)):
        raise UsageError(f"the bounds of a strength are two different numbers, not {start!r} and {furthest!r}")
    count = 0
    largest = (-math.inf, start)

    def at(strength: float) -> tuple[float, Dose]:
        nonlocal count, largest
        count += 1
        dose = meter.measured(make_edits(strength), kl=measure == "kl")
        if not dose.finite:  # far too much
            return math.inf, dose
        value = dose.value(measure)
        largest = max(largest, (value, strength))
        return value, dose

    low, high = start, start
    if at(start)[0] > target * (1 + tolerance):
        raise InputError(f"strength {start:g} has a larger dose than {target:g} already; begin at the identity")
    for step in range(_DOUBLINGS, -1, -1):
        high = start + (furthest - start) / 2**step
        value, dose = at(high)
        if abs(value - target) <= tolerance * target:
            return Matched(high, dose, count)
        if value > target:
            break
        low = high
    else:
        raise InputError(
            f"a dose of {target:g} ({measure}) is not reached between strengths {start:g} and {furthest:g}; the "
            f"largest is {largest[0]:g} at {largest[1]:g}: widen the bounds, or ask for less"
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        value, dose = at(middle)
        if abs(value - target) <= tolerance * target:
            return Matched(middle, dose, count)
        low, high = (middle, high) if value < target else (low, middle)
    raise InputError(
        f"the dose jumps over {target:g} ({measure}) between strengths {low:g} and {high:g}; it cannot be matched "
        f"within {tolerance:g} of it"
    )
