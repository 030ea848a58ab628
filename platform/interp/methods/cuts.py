"""How a scan is cut between positions, as edits of public sites; what they are for is in `knockout`.

An edit at the scan's output takes away what the targets read of the sources' writes, computed from the inputs of the
same scan in the same forward pass; another one at the convolution's window hides the sources from the targets' taps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...models.access.edits import Edit
from .recurrences import LayerRecurrence
from .taps import Watch

if TYPE_CHECKING:
    from ...models.access.run import Run


def cut_edits(
    scan: LayerRecurrence,
    masks: Sequence[Tensor | None],
    targets: Sequence[int],
    sources: Sequence[int],
    block_conv: bool,
) -> list[Edit]:
    """The edits of one scan by which row r of a batch loses masks[r] (E, N), the state coordinates cut there.

    They change nothing in rows whose mask is None, and belong to one forward pass.
    """
    acting = [row for row, mask in enumerate(masks) if mask is not None]
    if not acting:
        return []
    seen: dict[str, Tensor] = {}

    def watch(name: str, x: Tensor, lengths: Tensor) -> None:
        seen[name] = x

    def cut(part: int, x: Tensor) -> Tensor:
        if part == 0:
            seen["removed"] = _removed(scan, seen, masks, targets, sources)
        removed = seen["removed"][..., part * x.shape[2] :][..., : x.shape[2]]
        return x - removed.to(x.dtype)

    edits: list[Edit] = [Watch(name, partial(watch, name)) for name in scan.inputs]
    edits += [Rewrite(name, function=partial(cut, part)) for part, name in enumerate(scan.outputs)]
    if block_conv:
        rows = torch.tensor(acting)
        edits.append(CutTaps(scan.prefix + "conv_state", rows=rows, targets=tuple(targets), sources=tuple(sources)))
    return edits


def _removed(
    scan: LayerRecurrence,
    seen: Mapping[str, Tensor],
    masks: Sequence[Tensor | None],
    targets: Sequence[int],
    sources: Sequence[int],
) -> Tensor:
    """What each row's targets read of the sources' writes, (B, T, E); zero elsewhere and in rows without a mask."""
    values = scan.rebuild(seen)
    written = torch.zeros_like(values.x)
    written[:, list(sources)] = values.x[:, list(sources)]
    removed = torch.zeros_like(values.x)
    for row, mask in enumerate(masks):
        if mask is None:
            continue
        alone = values._replace(**{k: getattr(values, k)[row : row + 1] for k in ("x", "delta", "B", "C", "skip")})
        read = alone.read_out(written[row : row + 1], None if bool(mask.all()) else mask)
        removed[row, list(targets)] = read[0, list(targets)]
    return removed


@dataclass(frozen=True, eq=False)
class Rewrite(Edit):
    """x -> function(x) at a site with one value per token; x (B, T, ...) is unpadded. Raises UsageError at a state."""

    kind: ClassVar[str] = "rewrite"
    site: str
    function: Callable[[Tensor], Tensor]

    def apply(self, run: Run, x: Tensor) -> tuple[Tensor, bool]:
        return self.function(x), True

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        raise UsageError(f"{self}: a state exists only at chosen steps; use a site with one value per token")


@dataclass(frozen=True, eq=False)
class CutTaps(Edit):
    """In `rows`, the convolution at each target does not see the inputs of sources; no other step is changed.

    Before a target, the window loses what it holds of the sources; after it, they are put back. A target's own input is
    no part of the window.
    """

    kind: ClassVar[str] = "cut_taps"
    site: str
    rows: Tensor
    targets: tuple[int, ...]
    sources: tuple[int, ...]
    _uncut: dict[int, Tensor] = field(default_factory=dict[int, Tensor], init=False)  # by step: the uncut window

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        before = self._uncut.pop(column - 1, None)
        # only the newest input of x is sure to be whole: what an earlier cut took is still missing in the older ones
        whole = x if before is None else torch.cat([before[..., 1:], x[..., -1:]], -1)
        self._uncut[column] = whole
        reach = whole.shape[-1]
        gone = [m for m in range(reach) if column - reach + 1 + m in self.sources] if column + 1 in self.targets else []
        window = whole.clone()
        window[..., gone] = 0.0
        rows = self.rows.to(x.device)
        return x.index_copy(0, rows, window[rows]), True
