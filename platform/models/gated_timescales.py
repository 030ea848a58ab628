"""What a mixer says of its gates, timescales and sparse attention (`Mixer.gated_timescales`), so that analyses need not
know the mixer.

    v_t = c_t sum_k w_k g_k(u_t)                      gates, each a factor in (0, 1) on each channel of the input
    y_t = sum_j v_j y_j,t                             read-outs of one recurrence's timescales
    out = gain_t (y_t + m attention(y)_t)             m: the memory gate; in blocks with sparse attention alone

All names are of sites, relative to the mixer, behind `within`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class GatedTimescales:
    """gates: sites of g_k(u). timescales: their names, in the order of the recurrence's heads; read_outs: sites of y_j;
    decays: those that they start with. attention: the site that is added to y, where there is one.
    parameters: part -> how the names of its parameters begin. within: what the names of sites and parameters begin
    with, such as "stable."."""

    gates: tuple[str, ...]
    timescales: tuple[str, ...]
    read_outs: tuple[str, ...]
    decays: tuple[float, ...]
    parameters: Mapping[str, tuple[str, ...]]
    attention: str | None = None
    gate_weights: str = "gate_weights"
    timescale_weights: str = "timescale_weights"
    mixed: str = "y"
    memory_gate: str = "memory_gate"
    factors: tuple[str, ...] = ("compression", "gain")
    within: str = ""

    def part_of(self, parameter: str) -> str | None:
        """The part that a parameter of the mixer belongs to; None for one that is of none, such as another mixer's."""
        if not parameter.startswith(self.within):
            return None
        own = parameter.removeprefix(self.within)
        found = (part for part, starts in self.parameters.items() if own.startswith(starts))
        return next(found, None)
