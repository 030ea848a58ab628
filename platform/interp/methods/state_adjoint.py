"""How the outcome depends on the recurrent state at every step: the adjoint of a scan, itself a scan in reverse.

With g_t = dM/dy_t and h_t the state that step t reads and hands on,
    lambda_t = dM/dh_t = C_t^T g_t + exp(Delta_{t+1} A) lambda_{t+1},
and without the first term for the state after the read-out (`h_post`). Exact, for all steps at once. States of all
steps are laid out for a block of units at a time, so that memory stays within a given size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .recurrences import Scan

#: bytes of one (rows, T, units, P, N) tensor of a block; two of them exist at a time
BLOCK_BYTES = 1 << 26


class StateEffects(NamedTuple):
    """First-order effects (B, T) of moving the state at each step: pre-readout (`h`) and post-step (`h_post`)."""

    h: Tensor
    h_post: Tensor


class Units(NamedTuple):
    """A block of units of a scan, with everything per unit.

    written (B, T, u, P, 1): Delta x; delta (B, T, u, 1, 1); A (u, 1, N or 1); B, C (B, T, u, 1, N).
    """

    written: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor

    @staticmethod
    def of(scan: Scan, units: Tensor) -> Units:
        x = torch.unflatten(scan.x, -1, (scan.units, -1))[:, :, units]
        delta, group = scan.delta[:, :, units], scan.group_of(units)
        written = (delta[..., None] * x)[..., None]
        B, C = scan.B[:, :, group, None], scan.C[:, :, group, None]
        return Units(written, delta[..., None, None], scan.A[units][:, None], B, C)

    def decay(self, t: int) -> Tensor:
        """exp(Delta_t A) (B, u, 1, N or 1)."""
        return torch.exp(self.delta[:, t] * self.A)

    def states(self) -> Tensor:
        """h (B, T, u, P, N) after every step."""
        rows, width, units, P, _ = self.written.shape
        states = self.written.new_empty(rows, width, units, P, self.B.shape[-1])
        for t in range(width):
            torch.mul(self.written[:, t], self.B[:, t], out=states[:, t])
            if t:
                states[:, t].addcmul_(self.decay(t), states[:, t - 1])
        return states


def unit_blocks(scan: Scan, bytes_per_block: int = BLOCK_BYTES) -> list[Tensor]:
    """The units of `scan` in blocks whose states at all steps take at most `bytes_per_block` (one unit at least)."""
    rows, width, channels = scan.x.shape
    per_unit = rows * width * (channels // scan.units) * scan.B.shape[3] * scan.x.element_size()
    units = torch.arange(scan.units, device=scan.x.device)
    return list(torch.split(units, max(1, bytes_per_block // per_unit)))


@torch.no_grad()
def state_effects(
    clean: Scan, corrupted: Scan, at: Scan, gradient: Tensor, bytes_per_block: int = BLOCK_BYTES
) -> StateEffects:
    """<h_clean - h_corrupted, dM/dh> at each step, the derivative taken in the run of `at`, where dM/dy is `gradient`.

    clean may have one row for all rows of the others. gradient (B, T, E). Where the derivative is that of the corrupted
    run, `at` is `corrupted`.
    """
    rows, width, _ = gradient.shape
    seen, kept = gradient.new_zeros(rows, width, dtype=torch.float64), None
    after = torch.zeros_like(seen)
    g = torch.unflatten(gradient.to(at.x.dtype), -1, (at.units, -1))
    for units in unit_blocks(at, bytes_per_block):
        moved = Units.of(clean, units).states() - Units.of(corrupted, units).states()
        here = Units.of(at, units)
        kept = torch.zeros_like(moved[:, 0])
        for t in range(width - 1, -1, -1):
            after[:, t] += (moved[:, t] * kept).flatten(1).sum(1)
            own = g[:, t, units, :, None] * here.C[:, t]
            seen[:, t] += (moved[:, t] * own).flatten(1).sum(1)
            kept = here.decay(t) * (kept + own)  # what step t hands to step t - 1
    return StateEffects(seen + after, after)
