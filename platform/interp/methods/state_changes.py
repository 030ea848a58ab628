"""How much a channel's state and read-out change from token to token, and how much of that goes with Delta.

For one prompt of T tokens the change of a quantity v is v_t - v_{t-1}, t = 1 .. T-1; a state has N coordinates, whose
squares are added up. Per channel e, with m the mean change of the prompt:

- squares: sum over t of |v_t - v_{t-1} - m|^2;
- explained: the part of it that is a line in Delta_t[e], |sum_t (Delta_t - mean) (v_t - v_{t-1})|^2 over
  sum_t (Delta_t - mean)^2; 0 where Delta does not vary;
- shifted: the same with Delta moved in time around the end of the prompt, which keeps its values and its course and
  breaks what goes with the change: the level of chance;
- held: `squares` of the same scan with Delta at its mean over the prompt, everything else as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .recurrences import LayerRecurrence
from .state_adjoint import Units, unit_blocks


class Changes(NamedTuple):
    """All (B, C), float64; see the module."""

    squares: Tensor
    explained: Tensor
    shifted: Tensor


def held_delta(delta: Tensor, real: Tensor) -> Tensor:
    """Delta (B, T, U) at the mean over each row's real tokens, real (B, T), as (B, 1, U)."""
    kept = torch.where(real[..., None], delta, 0.0)
    return kept.sum(1, keepdim=True) / real.sum(1)[:, None, None]


def squares_of(v: Tensor, real: Tensor) -> Tensor:
    """Squares (B, C) of the changes of v (B, T, C) or (B, T, C, N); real (B, T), real tokens first."""
    return _squares(_steps(v, real), real)


def changes(v: Tensor, drive: Tensor, shifted: Tensor, real: Tensor) -> Changes:
    """Of v as in `squares_of`. drive, shifted (B, T-1, C): Delta less its mean over the tokens from the second on, zero
    at padding, as it is and moved in time (`drives`)."""
    step = _steps(v, real)

    def along(given: Tensor) -> Tensor:
        spread = given.square().sum(1).double()
        crossed = torch.einsum("btc,btcn->bcn", given, step).square().sum(2).double()
        return torch.where(spread > 0, crossed / torch.where(spread > 0, spread, 1.0), 0.0)

    return Changes(_squares(step, real), along(drive), along(shifted))


def _steps(v: Tensor, real: Tensor) -> Tensor:
    """v_t - v_{t-1} (B, T-1, C, N or 1), zero at padding."""
    step = v.diff(dim=1)
    step = step[..., None] if v.ndim == 3 else step
    return torch.where(real[:, 1:, None, None], step, 0.0)


def _squares(step: Tensor, real: Tensor) -> Tensor:
    count = real[:, 1:].sum(1).clamp(min=1)[:, None]
    around = step.square().sum((1, 3)).double() - step.sum(1).square().sum(2).double() / count
    return around.clamp(min=0.0)


def drives(delta: Tensor, lengths: Sequence[int], shifts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`drive` and `shifted` of `changes`, of delta (B, T, C). shifts: by how many tokens, of each row."""
    plain, moved = torch.zeros_like(delta[:, 1:]), torch.zeros_like(delta[:, 1:])
    for row, (length, shift) in enumerate(zip(lengths, shifts, strict=True)):
        own = delta[row, 1:length]
        if len(own):
            plain[row, : length - 1] = own - own.mean(0)
            moved[row, : length - 1] = plain[row, : length - 1].roll(shift, 0)
    return plain, moved


@torch.no_grad()
def state_changes(
    place: LayerRecurrence, values: Mapping[str, Tensor], real: Tensor, shifts: Sequence[int]
) -> tuple[dict[str, Changes], dict[str, Tensor]]:
    """Changes of the `state` and of `y`, the read-out with skip, and the squares of both with Delta held.

    values: of the sites that the recurrence reads, by full name; real (B, T), padding on the right.
    """
    scan = place.rebuild(values)
    lengths = [int(n) for n in real.sum(1)]
    plain, moved = drives(scan.delta, lengths, shifts)
    held = scan.x.new_zeros(scan.x.shape[0], scan.x.shape[2], dtype=torch.float64)
    of = Changes(torch.zeros_like(held), torch.zeros_like(held), torch.zeros_like(held))
    if place.of.delta is None:
        still = scan
    else:
        mean = held_delta(values[place.name("delta")], real).expand_as(values[place.name("delta")])
        still = place.rebuild({**values, place.name("delta"): mean})
    P = scan.unit_width

    def per_channel(of_units: Tensor) -> Tensor:
        return of_units.repeat_interleave(P, 2)

    for units in unit_blocks(scan):
        own = (units[:, None] * P + torch.arange(P, device=units.device)).flatten()  # the channels of these units
        states = Units.of(scan, units).states().flatten(2, 3)
        found = changes(states, per_channel(plain[..., units]), per_channel(moved[..., units]), real)
        for total, part in zip(of, found, strict=True):
            total[:, own] = part
        held[:, own] = squares_of(Units.of(still, units).states().flatten(2, 3), real)
    y, still_y = (one.read_out(one.x) + one.skip for one in (scan, still))
    return (
        {"state": of, "y": changes(y, per_channel(plain), per_channel(moved), real)},
        {"state": held, "y": squares_of(still_y, real)},
    )
