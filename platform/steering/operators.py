"""Operators: how a strength acts on chosen channels of one layer, as edits of `mplat.models`.

    @operator("scale_delta", site="mixer.delta")
    def scale_delta(site: str, channels: Sequence[int], strength: float) -> list[Edit]:
        return [Scale(site, strength, channels=channels)]

An operator acts on one kind of site; the full name with its layer is handed to it. The contract, checked by `build`
or by tests that run over everything registered: strength 1 is the identity, bit for bit; only the given channels of
the given site are touched; prefill and decode are steered alike; nothing depends on anything but the arguments.

It does not choose layers, channels or strengths (`discovery`), and it does not run a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError, suggest

if TYPE_CHECKING:
    from ..models import Edit

MAX_STRENGTH = 100.0
STRENGTH_RANGE = f"above 0 to {MAX_STRENGTH:g}"

Build = Callable[[str, Sequence[int], float], "list[Edit]"]


@dataclass(frozen=True)
class Operator:
    """A registered operator. site: what follows `blocks.{layer}.`; meaning: one sentence."""

    name: str
    site: str
    build: Build
    meaning: str


_OPERATORS: dict[str, Operator] = {}


def operator(name: str, *, site: str) -> Callable[[Build], Build]:
    """Register a function (site, channels, strength) -> edits; the first line of its docstring is its meaning."""

    def register(build: Build) -> Build:
        taken = _OPERATORS.get(name)
        if taken is not None and taken.build.__qualname__ != build.__qualname__:
            raise UsageError(f"the operator name {name!r} is taken by {taken.build.__qualname__}; choose another")
        meaning = (build.__doc__ or "").strip().splitlines()[0] if build.__doc__ else ""
        _OPERATORS[name] = Operator(name, site, build, meaning)
        return build

    return register


def operator_names() -> list[str]:
    """Every registered operator, sorted."""
    _import_variants()
    return sorted(_OPERATORS)


def find_operator(name: str) -> Operator:
    """The operator registered under `name`; UsageError with the nearest name otherwise."""
    if name not in _OPERATORS and name not in operator_names():
        raise UsageError(f"there is no steering operator {name!r}; {suggest(name, _OPERATORS)}")
    return _OPERATORS[name]


def _import_variants() -> None:
    """A variant's file may bring an operator of its own; a worker elsewhere has not imported it yet."""
    from .variants import variant_names

    variant_names()


def check_strength(strength: float) -> float:
    """`strength` if it is a finite number in the allowed range."""
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
        raise UsageError(f"steering strength {strength!r} is not a finite number; allowed: {STRENGTH_RANGE}")
    if not 0 < strength <= MAX_STRENGTH:
        raise UsageError(f"steering strength {strength:g} is out of range; allowed: {STRENGTH_RANGE}")
    return float(strength)


def build(name: str, layer: int, channels: Sequence[int], strength: float) -> list[Edit]:
    """The edits of operator `name` on `channels` of block `layer` at `strength`."""
    chosen = find_operator(name)
    edits = chosen.build(f"blocks.{layer}.{chosen.site}", tuple(channels), check_strength(strength))
    assert edits, f"operator {name} built no edit"
    return edits


@operator("scale_mixer_out", site="mixer_out")
def scale_mixer_out(site: str, channels: Sequence[int], strength: float) -> list[Edit]:
    """Multiply channels of what a block adds to the residual stream."""
    from ..models import Scale

    return [Scale(site, strength, channels=channels)]


@operator("scale_delta", site="mixer.delta")
def scale_delta(site: str, channels: Sequence[int], strength: float) -> list[Edit]:
    """Multiply the step sizes of recurrent channels: above 1 they write more and forget faster."""
    from ..models import Scale

    return [Scale(site, strength, channels=channels)]
