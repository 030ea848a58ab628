"""Operators: how a strength acts on chosen channels of one layer, as edits of `mplat.models`. One file each, found by
looking.

    @operator("scale_delta", site="mixer.delta", strengths=(0.5, 1.5, 2.0))
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

from ...core.errors import UsageError
from ...core.registry import Registry

if TYPE_CHECKING:
    from ...models import Edit

MAX_STRENGTH = 100.0
STRENGTH_RANGE = f"above 0 to {MAX_STRENGTH:g}"

Build = Callable[[str, Sequence[int], float], "list[Edit]"]


@dataclass(frozen=True)
class Operator:
    """A registered operator. site: what follows `blocks.{layer}.`; meaning: one sentence; strengths: those tried in
    models of which all blocks have the site, none where only a variant or a user asks for it."""

    name: str
    site: str
    build: Build
    meaning: str
    strengths: tuple[float, ...] = ()


OPERATORS: Registry[Operator] = Registry("steering operator", "operator", f"{__name__}.operators")
operator_names, find_operator = OPERATORS.names, OPERATORS.get


def operator(name: str, *, site: str, strengths: tuple[float, ...] = ()) -> Callable[[Build], Build]:
    """Register a function (site, channels, strength) -> edits; the first line of its docstring is its meaning."""

    def register(build: Build) -> Build:
        meaning = (build.__doc__ or "").strip().splitlines()[0] if build.__doc__ else ""
        OPERATORS.add(name, Operator(name, site, build, meaning, strengths), build.__module__)
        return build

    return register


def check_strength(strength: object) -> float:
    """`strength` if it is a finite number in the allowed range; UsageError where it is not."""
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
        raise UsageError(f"steering strength {strength!r} is not a finite number; allowed: {STRENGTH_RANGE}")
    if not 0 < strength <= MAX_STRENGTH:
        raise UsageError(f"steering strength {strength:g} is out of range; allowed: {STRENGTH_RANGE}")
    return float(strength)


def build(name: str, layer: int, channels: Sequence[int], strength: float) -> list[Edit]:
    """The edits of operator `name` on `channels` of block `layer` at `strength`. Raises UsageError for a name that is
    none and a strength out of range."""
    chosen = find_operator(name)
    edits = chosen.build(f"blocks.{layer}.{chosen.site}", tuple(channels), check_strength(strength))
    assert edits, f"operator {name} built no edit"
    return edits
