"""The recurrences inside a model, by what its mixers say of them, and scans rebuilt from what captures of sites saw.

    h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t x_t,     y_t = C_t . h_t + D x_t

Analyses that need more than a site's value, such as its decays, its write at one step alone or its adjoint, start here.
A scan of a layer that reads states of other layers, whose states are complex, or that has no recurrence, is refused:
nothing that starts from one would be true of it.

Shapes: T tokens, U units of one decay each with P channels (Mamba: U = E, P = 1; Mamba-2: U = H), channel e = u P + p;
G groups that share B and C, N coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...models.kernels import selective_scan, ssd
from ...models.linear_recurrence import Recurrence, write_share
from ...models.parts.norms import wide
from .typed_tensors import different, different_rows

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ...models.block import Block


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
        patterns, which = different_rows(coordinates)
        for number, pattern in enumerate(patterns):
            if bool(pattern.any()):
                total = total + self._scan(x, self.C * pattern, (which == number).nonzero()[:, 0])
        return total

    def _scan(self, x: Tensor, C: Tensor, channels: Tensor | None) -> Tensor:
        """The read-out (B, T, E) with C, of the inputs of `channels` alone (None: all)."""
        if self.A.shape[1] == 1:
            if channels is not None:
                x = torch.zeros_like(x).index_copy(2, channels, x[..., channels])
            heads = torch.unflatten(x, -1, (self.units, -1)).contiguous()
            y = ssd(heads, self.delta, self.A[:, 0].contiguous(), self.B, C)
            assert isinstance(y, Tensor)
            return y.flatten(2)
        every = torch.arange(x.shape[2], device=x.device) if channels is None else channels
        group, read = self.group_of(every // self.unit_width), torch.zeros_like(x)
        for number in different(group):
            here = every[group == number]
            unit = here // self.unit_width
            y = selective_scan(
                x[..., here].contiguous(), self.delta[..., unit].contiguous(), self.A[unit].contiguous(),
                self.B[:, :, number].contiguous(), C[:, :, number].contiguous(),
            )  # fmt: skip
            assert isinstance(y, Tensor)
            read = read.index_copy(2, here, y)
        return read


@dataclass(frozen=True)
class LayerRecurrence:
    """One recurrence of a block. number: among those of the block; of: what its mixer says of it, in float64."""

    layer: int
    number: int
    block: Block = field(compare=False, repr=False)
    of: Recurrence = field(compare=False, repr=False)

    @property
    def site(self) -> str:
        """Where it stands in the block: "mixer" or, beside another one, "mixer.stable"."""
        return f"mixer.{self.of.within}".removesuffix(".")

    @property
    def prefix(self) -> str:
        """Of the full names of its sites."""
        return f"blocks.{self.layer}.{self.site}."

    @property
    def delta(self) -> str | None:
        """The site of Delta relative to the block; None where Delta is 1."""
        return None if self.of.delta is None else f"{self.site}.{self.of.delta}"

    @cached_property
    def A(self) -> Tensor:
        """Eigenvalues (U, M) per unit of Delta, complex128, wherever the model is."""
        return self.of.A.cpu().to(torch.complex128)

    @property
    def rate(self) -> Tensor:
        """|Re A| (U, M)."""
        return self.A.real.abs()

    def name(self, quantity: str) -> str:
        """Full name of the site that holds "x", "delta", "B" or "C"."""
        site = getattr(self.of, quantity)
        assert isinstance(site, str), f"{quantity} of {self.site} in block {self.layer} is a constant"
        return self.prefix + site

    @property
    def inputs(self) -> tuple[str, ...]:
        """Full names of the sites of x, Delta, B and C, as far as they are no constants."""
        quantities = (self.of.x, self.of.delta, self.of.B, self.of.C)
        return tuple(self.prefix + site for site in quantities if isinstance(site, str))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Full names of the sites whose values, side by side, are y with skip."""
        return tuple(self.prefix + site for site in self.of.outputs)

    def in_dtype(self, dtype: torch.dtype) -> Recurrence:
        """What the mixer says of it, with constants in `dtype`."""
        return self.block.recurrences(dtype)[self.number]

    def rebuild(self, values: Mapping[str, Tensor]) -> Scan:
        """The scan from values (B, T, ...) of the sites `inputs`, by full name."""
        x = values[self.inputs[0]]
        dtype = wide(x.dtype)
        of, x = self.in_dtype(dtype), x.to(dtype)

        def vectors(given: str | Tensor | None) -> Tensor:
            if isinstance(given, str):
                return torch.unflatten(values[self.prefix + given].to(dtype), -1, (of.groups, -1))
            constant = x.new_ones(of.groups, of.A.shape[1]) if given is None else given
            return constant.expand(*x.shape[:2], *constant.shape)

        units = len(of.A)
        delta = x.new_ones(*x.shape[:2], units) if of.delta is None else values[self.prefix + of.delta].to(dtype)
        by_unit = torch.unflatten(x, -1, (units, -1))
        skip = torch.zeros_like(x) if of.D is None else (of.D[:, None] * by_unit).flatten(2)
        written = (by_unit * write_share(delta)[..., None]).flatten(2) if of.averaging else x
        return Scan(written, delta, of.A, vectors(of.B), vectors(of.C), skip)


def recurrences_of(model: LanguageModel, layer: int) -> list[LayerRecurrence]:
    """The recurrences of block `layer`: none (attention, an MLP, an implicit filter), one, or two.

    UsageError where an edit of their decay rates is in force.
    """
    block = model.blocks[layer]
    for applied in model.edits:
        for site in applied.sites:
            if site.startswith(f"blocks.{layer}.") and site.endswith(".A"):
                raise UsageError(f"{applied.edit} changes the decays of block {layer}: leave that edit first")
    return [LayerRecurrence(layer, number, block, of) for number, of in enumerate(block.recurrences())]


def scans_of(model: LanguageModel, layer: int) -> list[LayerRecurrence]:
    """Those that can be rebuilt: of real states, and whose y follows from these alone."""
    return [place for place in recurrences_of(model, layer) if place.of.outputs and not place.of.A.is_complex()]


def require_scans(model: LanguageModel, layers: tuple[int, ...], what: str) -> list[LayerRecurrence]:
    """The scans of all `layers`; UsageError naming those that have none that could be rebuilt."""
    scans = {layer: scans_of(model, layer) for layer in layers}
    without = [layer for layer, of_layer in scans.items() if not of_layer]
    if without:
        having = [layer for layer in range(model.n_layers) if scans_of(model, layer)]
        listed = f"blocks {', '.join(map(str, having))} of it have one" if having else "no block of it has one"
        raise UsageError(
            f"{what}: block {without[0]} of model {model.name} has no selective scan of its own states alone; {listed}"
        )
    return [scan for of_layer in scans.values() for scan in of_layer]


def refuse_state_edits(model: LanguageModel, what: str, *more: str) -> None:
    """UsageError where an edit of a recurrent state is in force: then a state is not what the scan's inputs wrote.

    more: further sites whose edits would be undone or missed.
    """
    for applied in model.edits:
        for site in applied.sites:
            if site.rpartition(".")[2] in ("h", "h_post", "h_fused", "write", "h_init", *more):
                raise UsageError(f"{what} cannot be computed while {applied.edit} is in force: leave that edit first")
