"""What the corrupted run's value of each channel or state coordinate would cost, to first order and for all at once.

    channel c of a site:          sum over t of (a_t[c] of the clean run - of the corrupted one) dm / da_t[c]
    coordinate (e, n) of a state: sum over t of (h_t[e, n] of the clean run - of the corrupted one) C_t[n] dm / dy_t[e]

The derivatives are taken in the clean run; the state's is that of its read-out at every step, because all steps are
replaced together (`candidates.Coordinates`). An estimate is positive where the unit supports the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...models.access.edits import Add
from .circuit_runs import AddToWindow
from .contrasts import Judged, Pairs
from .recurrences import LayerRecurrence, Scan
from .state_adjoint import Units, unit_blocks

if TYPE_CHECKING:
    from ...models import LanguageModel


class UnitAttributions(NamedTuple):
    """channels: by site (B, C). windows: by site (B,), of the whole window. states: by prefix (E, N), summed over
    prompts. All float64."""

    channels: dict[str, Tensor]
    windows: dict[str, Tensor]
    states: dict[str, Tensor]


class BothRuns(NamedTuple):
    """By site what the clean and the corrupted run held, and the derivative of the metric in the clean run, all
    (B, T, ...)."""

    clean: dict[str, Tensor]
    corrupted: dict[str, Tensor]
    slope: dict[str, Tensor]


@torch.inference_mode(False)
def both_runs(
    model: LanguageModel, pairs: Pairs, sites: Sequence[str], windows: Sequence[str] = (),
    scans: Sequence[LayerRecurrence] = (), judged: Judged = "logit_diff",
) -> BothRuns:  # fmt: skip
    """Values of all these and of what the scans read, derivatives by all these and by what the scans give."""
    inside = [name for scan in scans for name in scan.inputs]
    seen = list(dict.fromkeys([*sites, *windows, *inside]))
    with torch.no_grad(), model.capture(*seen) as acts:
        model(pairs.corrupted, pairs.mask, last_only=True)
    corrupted = {name: acts[name] for name in seen}
    known = {site.name: site for site in model.sites()}

    def leaf(name: str) -> Tensor:
        axes = tuple(int(axis) for axis in known[name].axes)
        dtype = getattr(torch, known[name].dtype)
        return torch.zeros(*pairs.clean.shape, *axes, dtype=dtype, device=model.device, requires_grad=True)

    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        leaves = {
            name: leaf(name) for name in dict.fromkeys([*sites, *windows, *(n for s in scans for n in s.outputs)])
        }
        added = [
            AddToWindow(name, steps=zero.unbind(1)) if name in windows else Add(name, zero)
            for name, zero in leaves.items()
        ]
        stack.enter_context(model.edit(*added))
        acts = stack.enter_context(model.capture(*seen))
        logits = model(pairs.clean, pairs.mask, last_only=True)[:, 0]
        found = torch.autograd.grad(
            pairs.judge(logits, judged).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return BothRuns({n: acts[n].detach() for n in seen}, corrupted, dict(zip(leaves, found, strict=True)))


def unit_attributions(
    model: LanguageModel, pairs: Pairs, sites: Sequence[str], windows: Sequence[str], scans: Sequence[LayerRecurrence],
    judged: Judged = "logit_diff",
) -> UnitAttributions:  # fmt: skip
    """Of the channels of `sites`, the windows of convolutions, and the states of `scans`."""
    clean, corrupted, slope = both_runs(model, pairs, sites, windows, scans, judged)
    channels = {n: over_tokens((clean[n] - corrupted[n]).double() * slope[n].double(), pairs.mask) for n in sites}
    newest = {
        n: ((clean[n] - corrupted[n])[..., -1].double() * slope[n][..., -1].double()).sum(-1, keepdim=True)
        for n in windows
    }
    states = {
        scan.prefix: _of_states(scan.rebuild(clean), scan.rebuild(corrupted),
                                torch.cat([slope[name] for name in scan.outputs], -1))
        for scan in scans
    }  # fmt: skip
    return UnitAttributions(channels, {n: over_tokens(x, pairs.mask)[:, 0] for n, x in newest.items()}, states)


def over_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Sum (B, C) of x (B, T, C) over the real tokens of mask (B, T)."""
    return torch.where(mask[..., None], x, 0.0).sum(1)


@torch.no_grad()
def _of_states(clean: Scan, corrupted: Scan, slope: Tensor) -> Tensor:
    """(E, N); slope (B, T, E), which is zero at padding."""
    g = torch.unflatten(slope.to(clean.x.dtype), -1, (clean.units, -1))
    total = torch.zeros(clean.units, clean.unit_width, clean.B.shape[3], dtype=torch.float64, device=slope.device)
    for units in unit_blocks(clean):
        here, there = Units.of(clean, units), Units.of(corrupted, units)
        moved = (here.states() - there.states()) * here.C * g[:, :, units, :, None]
        total[units] = moved.double().sum((0, 1))
    return total.flatten(0, 1)


@torch.no_grad()
def summed_states(scan: Scan, mask: Tensor) -> Tensor:
    """Sum over the real tokens of all rows of the state h_t (E, N), float64."""
    total = torch.zeros(scan.units, scan.unit_width, scan.B.shape[3], dtype=torch.float64, device=mask.device)
    for units in unit_blocks(scan):
        states = Units.of(scan, units).states().double()
        total[units] = (states * mask[:, :, None, None, None]).sum((0, 1))
    return total.flatten(0, 1)
