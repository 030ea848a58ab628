"""Units of a strength: what the number of a part means, and at which value it does nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import UsageError, suggest

MAX_STRENGTH = 100.0


@dataclass(frozen=True)
class Unit:
    """identity: the strength that changes nothing, bit for bit. meaning: what strength 2 would do."""

    name: str
    identity: float
    meaning: str


UNITS = {
    unit.name: unit
    for unit in (
        Unit("factor", 1.0, "multiplies what is there; 1 changes nothing"),
        Unit("rms", 0.0, "multiples of the site's root mean square on the development texts; 0 changes nothing"),
        Unit("value", 0.0, "the site's own units; 0 changes nothing"),
        Unit("half_life", 1.0, "multiplies the half-lives of time constants; 1 changes nothing"),
        Unit("share", 0.0, "part of the whole change, which 1 makes; 0 changes nothing"),
    )
}


def unit_called(name: str) -> Unit:
    """The unit `name`; UsageError with the nearest name where there is none."""
    if name not in UNITS:
        raise UsageError(f"there is no unit {name!r} of a strength; {suggest(name, UNITS)}")
    return UNITS[name]
