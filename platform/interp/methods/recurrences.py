"""The selective scans inside a model, rebuilt from what captures of public sites saw.

    h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t x_t,     y_t = C_t . h_t + D x_t

in one form for Mamba (a decay per channel and coordinate), Mamba-2 (one per head) and Stable-Mamba (three timescales of
heads). Analyses that need more than a site's value, such as its write at one step alone or its adjoint, start here. A
layer that reads states of other layers (DenseMamba), and one whose long filter is not selective (Hyena), is refused:
nothing here would be true of it.

Shapes: T tokens, U units of one decay each with P channels (Mamba: U = E, P = 1; Mamba-2: U = H), channel e = u P + p;
G groups that share B and C, N coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...models.families.dense_mamba.dense_mamba import DenseMambaMixer
from ...models.families.mamba.mamba import MambaMixer
from ...models.families.mamba2.mamba2 import Mamba2Mixer
from ...models.families.stable_mamba.options import TIMESCALES
from ...models.families.stable_mamba.stable_mamba import StableMambaMixer
from ...models.families.stable_mamba.timescales import write_share
from ...models.kernels import selective_scan, ssd
from ...models.parts.norms import wide

if TYPE_CHECKING:
    from ...models import LanguageModel

#: sites a scan is rebuilt from
INPUTS = ("x", "delta", "B", "C")


class Scan(NamedTuple):
    """One scan's quantities in float32 or wider.

    x (B, T, E); delta (B, T, U); A (U, N), or (U, 1) where all coordinates of a unit decay alike; B, C (B, T, G, N);
    skip (B, T, E): D x, which y holds beside the read-out.
    """

    x: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    skip: Tensor

    @property
    def units(self) -> int:
        return self.A.shape[0]

    @property
    def unit_width(self) -> int:
        """P, channels per unit."""
        return self.x.shape[2] // self.units

    @property
    def state_shape(self) -> tuple[int, int]:
        """(E, N), as the site `h` shows a state."""
        return self.x.shape[2], self.B.shape[3]

    def group_of(self, units: Tensor) -> Tensor:
        """The group whose B and C each unit reads."""
        return units // (self.units // self.B.shape[2])

    def read_out(self, x: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """C_t . h_t (B, T, E) of the states that inputs x (B, T, E) write, without skip.

        coordinates (E, N) bool: those of the state that are written; None: all. Cost: a scan for each pattern of
        coordinates that a channel has, on the channels that have it.
        """
        if coordinates is None:
            return self._scan(x, self.C, None)
        total = torch.zeros_like(x)
        patterns, which = torch.unique(coordinates, dim=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            if bool(pattern.any()):
                total = total + self._scan(x, self.C * pattern, (which == number).nonzero()[:, 0])
        return total

    def _scan(self, x: Tensor, C: Tensor, channels: Tensor | None) -> Tensor:
        """The read-out (B, T, E) with C, of the inputs of `channels` alone (None: all)."""
        if self.A.shape[1] == 1 or self.B.shape[2] > 1:
            if channels is not None:
                x = torch.zeros_like(x).index_copy(2, channels, x[..., channels])
            heads = x.unflatten(-1, (self.units, -1)).contiguous()
            y = ssd(heads, self.delta, self.A[:, 0].contiguous(), self.B, C)
            assert isinstance(y, Tensor)
            return y.flatten(2)
        every = slice(None) if channels is None else channels
        y = selective_scan(
            x[..., every].contiguous(), self.delta[..., every].contiguous(), self.A[every].contiguous(),
            self.B[:, :, 0].contiguous(), C[:, :, 0].contiguous(),
        )  # fmt: skip
        assert isinstance(y, Tensor)
        return y if channels is None else torch.zeros_like(x).index_copy(2, channels, y)


@dataclass(frozen=True)
class ScanPlace:
    """One scan of a block. prefix: of its sites, such as "blocks.3.mixer."; mixer: the module it belongs to.

    outputs: the sites whose values, side by side, are y with skip.
    """

    layer: int
    prefix: str
    mixer: Any
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Full names of the sites the scan is rebuilt from."""
        return tuple(self.prefix + name for name in INPUTS)

    def rebuild(self, values: Mapping[str, Tensor]) -> Scan:
        """The scan from values (B, T, ...) of the sites `inputs`, by full name."""
        x, delta, B, C = (values[name] for name in self.inputs)
        dtype = wide(x.dtype)
        x, delta, B, C = (v.to(dtype) for v in (x, delta, B, C))
        mixer = self.mixer
        D = mixer.D.detach().to(dtype)
        if isinstance(mixer, StableMambaMixer):
            heads = D.shape[0]
            skip = (D[:, None] * x.unflatten(-1, (heads, -1))).flatten(2)
            written = (x.unflatten(-1, (heads, -1)) * write_share(delta)[..., None]).flatten(2)
            return Scan(written, delta, -torch.ones_like(D)[:, None], B[:, :, None], C[:, :, None], skip)
        A = -torch.exp(mixer.A_log.detach().to(dtype))
        if isinstance(mixer, Mamba2Mixer):
            groups = (mixer.config.n_groups, mixer.config.state_size)
            skip = (D[:, None] * x.unflatten(-1, (D.shape[0], -1))).flatten(2)
            return Scan(x, delta, A[:, None], B.unflatten(-1, groups), C.unflatten(-1, groups), skip)
        return Scan(x, delta, A, B[:, :, None], C[:, :, None], D * x)


def scans_of(model: LanguageModel, layer: int) -> list[ScanPlace]:
    """The scans of block `layer` that read their own states alone; several where a block has two mixers, or none."""
    prefix, mixer = f"blocks.{layer}.mixer.", model.blocks[layer].mixer
    place = partial(ScanPlace, layer)
    if isinstance(mixer, StableMambaMixer):
        return [place(prefix, mixer, _stable_outputs(prefix))]
    if isinstance(mixer, DenseMambaMixer):
        return []
    found = [place(prefix, mixer, (prefix + "y",))] if isinstance(mixer, (MambaMixer, Mamba2Mixer)) else []
    added = getattr(mixer, "stable", None)
    if isinstance(added, StableMambaMixer):
        found.append(place(prefix + "stable.", added, _stable_outputs(prefix + "stable.")))
    return found


def _stable_outputs(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}ssm_{name}" for name in TIMESCALES)


def require_scans(model: LanguageModel, layers: tuple[int, ...], what: str) -> list[ScanPlace]:
    """The scans of all `layers`; UsageError naming those that have none that could be rebuilt."""
    found = {layer: scans_of(model, layer) for layer in layers}
    without = [layer for layer, scans in found.items() if not scans]
    if without:
        having = [layer for layer in range(model.n_layers) if scans_of(model, layer)]
        listed = f"blocks {', '.join(map(str, having))} of it have one" if having else "no block of it has one"
        raise UsageError(
            f"{what}: block {without[0]} of model {model.name} has no selective scan of its own states alone; {listed}"
        )
    return [scan for scans in found.values() for scan in scans]


def refuse_state_edits(model: LanguageModel, what: str, *more: str) -> None:
    """UsageError where an edit of a recurrent state is in force: then a state is not what the scan's inputs wrote.

    more: further sites whose edits would be undone or missed.
    """
    for applied in model.edits:
        for site in applied.sites:
            if site.rpartition(".")[2] in ("h", "h_post", "h_fused", *more):
                raise UsageError(f"{what} cannot be computed while {applied.edit} is in force: leave that edit first")
