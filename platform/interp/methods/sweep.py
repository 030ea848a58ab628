"""Restorations in batch: every item enters where it first differs from its corrupted run and goes up with all others.

An item is one restoration at one layer (or window) and position, for all samples. It has nothing to compute below its
first layer nor before its position: it starts from the corrupted run's residual stream and carried state there. `Sweep`
takes the items of one position up through the layers as one growing batch: at each layer the rows that entered below,
and the new ones, as parts of at most as many rows as memory allows. The blocks' own forward passes do the work,
so every architecture is restored as it runs; only the residual stream's last position is read out.

Blocks that exchange states beside the residual stream (DenseMamba; Zamba2's shared block) cannot be entered by
themselves: there every row starts at the first block, and the rows of a part stay together. That costs up to
twice as much and is exact for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models import LanguageModel
from ...models.access.edits import Replace
from ...models.access.run import Applied, Run
from ...models.mixer import LayerState
from .baseline import Baseline
from .memory import Memory
from .restoration import RESIDUAL, Restoration
from .typed_tensors import different


@dataclass(frozen=True, eq=False)
class ReplaceRows(Replace):
    """`Replace` in the rows (B,) where `rows` is True."""

    rows: Tensor | None = None

    def apply(self, run: Run, x: Tensor) -> tuple[Tensor, bool]:
        new, hit = super().apply(run, x)
        return self._kept(new, x), hit

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        new, hit = super().apply_at(run, column, x)
        return self._kept(new, x), hit

    def _kept(self, new: Tensor, x: Tensor) -> Tensor:
        assert self.rows is not None
        return torch.where(self.rows.view(-1, *[1] * (x.ndim - 1)), new, x)


@dataclass(frozen=True)
class Restored:
    """A restoration around `layer`, in the layers of its window, at the baseline's position."""

    restoration: Restoration
    layer: int
    window: tuple[int, ...]

    @property
    def first(self) -> int:
        """The block that first sees something new; L for what only the final norm sees."""
        return self.window[0] + (self.restoration.residual or 0)


class Sweep:
    """Restored runs of one model. metric: (B, V) logits -> (B,)."""

    def __init__(
        self, model: LanguageModel, metric: Callable[[Tensor], Tensor], memory: Memory, together: bool
    ) -> None:
        self.model, self._metric, self._memory, self._together = model, metric, memory, together

    def __call__(self, baseline: Baseline, items: Sequence[Restored], post_step: bool) -> Tensor:
        """The metric (items, samples) of each item at the baseline's position. post_step: as the items all are."""
        start = baseline.at + post_step
        found = [
            self._scores(baseline, self._pass(baseline, start, part)) for part in self._passes(baseline, start, items)
        ]
        return torch.cat(found).view(len(items), baseline.samples)

    @staticmethod
    def sites(items: Sequence[Restored]) -> list[str]:
        """The sites, relative to a block, that the baseline must know at a position to restore `items` there."""
        inside = [i.restoration for i in items if not i.restoration.post_step]
        return sorted({site for r in inside for site in r.parts if site not in RESIDUAL})

    def _passes(self, baseline: Baseline, start: int, items: Sequence[Restored]) -> Iterator[_Rows]:
        """The items in parts whose residual streams fit into memory."""
        width = baseline.length - start
        at_once = max(1, self._memory.carried_rows(width) // baseline.samples)
        for i in range(0, len(items), at_once):
            yield _Rows(items[i : i + at_once], baseline.samples, self.model.device)

    def _pass(self, baseline: Baseline, start: int, rows: _Rows) -> Tensor:
        """The residual stream (rows, d) of the last position after the last block."""
        if self._together:
            parts = torch.split(rows.index, self._memory.rows_at_once(baseline.length - start))
            return torch.cat([self._from_the_first_block(baseline, start, rows, part) for part in parts])
        first, depth = int(rows.first.min()), self.model.n_layers
        kind = baseline.resid[0]
        x = kind.new_empty(len(rows.index), baseline.length - start, kind.shape[2])
        for i in range(first, depth + 1):
            entering = rows.index[rows.first == i]
            x[entering] = self._entering(baseline, start, i, rows, entering)
            if i < depth:
                for part, restoration in self._parts(baseline, start, i, rows):
                    x[part] = self._block(baseline, start, i, x[part], rows, part, restoration)
        return x[:, -1]

    def _parts(
        self, baseline: Baseline, start: int, layer: int, rows: _Rows
    ) -> Iterator[tuple[Tensor, Restoration | None]]:
        """The rows that have entered, by what is restored in them at this layer, in parts that fit into memory."""
        entered = rows.index[rows.first <= layer]
        kinds = rows.restored_at(layer, inside=True)[entered]
        at_once = self._memory.rows_at_once(baseline.length - start)
        for kind in different(kinds):
            restoration = None if kind < 0 else rows.kinds[kind]
            for part in torch.split(entered[kinds == kind], at_once):
                yield part, restoration

    def _entering(self, baseline: Baseline, start: int, layer: int, rows: _Rows, part: Tensor) -> Tensor:
        """The corrupted runs' residual stream (n, W, d) before block `layer`, the clean one where that is restored."""
        source = baseline.resid[layer]
        x = source[1 + rows.sample[part], start:]
        is_residual = rows.residual[part]
        if bool(is_residual.any()):
            x[is_residual, 0] = source[0, start]
        return x

    def _block(
        self, baseline: Baseline, start: int, layer: int, x: Tensor, rows: _Rows, part: Tensor, kind: Restoration | None
    ) -> Tensor:
        """x (n, W, d) after block `layer`, with `kind` restored in it in all rows."""
        run = self._run(baseline, start, len(part))
        replaced: dict[str, Tensor] = {}
        if kind is not None and kind.post_step:
            every = torch.ones_like(part, dtype=torch.bool)
            replaced = dict.fromkeys(kind.entries or baseline.after[layer], every)
        elif kind is not None:
            edits = [
                Replace(f"blocks.{layer}.{site}", baseline.value(layer, site), positions=[baseline.at])
                for site in kind.parts
            ]
            run.edits = [*run.edits, *(Applied(edit, frozenset([edit.site])) for edit in edits)]
        state = _state(baseline, start, layer, rows.sample[part], replaced)
        return self.model.blocks[layer](x, run, f"blocks.{layer}.", state, False)[0]

    def _from_the_first_block(self, baseline: Baseline, start: int, rows: _Rows, part: Tensor) -> Tensor:
        """What `_pass` gives for the rows `part`, which all blocks see together."""
        run = self._run(baseline, start, len(part))
        depth = self.model.n_layers
        restored = [rows.restored_at(i, inside=False)[part] for i in range(depth)]
        if not rows.kinds[0].post_step:
            edits: list[Applied] = []
            for i, kinds in enumerate(restored):
                for kind in [k for k in different(kinds) if k >= 0]:
                    for site in rows.kinds[kind].parts:
                        name, value = f"blocks.{i}.{site}", baseline.value(i, site)
                        edit = ReplaceRows(name, value, positions=[baseline.at], rows=kinds == kind)
                        edits.append(Applied(edit, frozenset([name])))
            run.edits = [*run.edits, *edits]
        x = baseline.resid[0][1 + rows.sample[part], start:]
        for i, block in enumerate(self.model.blocks):
            replaced: dict[str, Tensor] = {}
            for kind in [k for k in different(restored[i]) if k >= 0]:
                for entry in (rows.kinds[kind].entries or baseline.after[i]) if rows.kinds[kind].post_step else ():
                    mask = restored[i] == kind
                    replaced[entry] = replaced[entry] | mask if entry in replaced else mask
            x, _ = block(x, run, f"blocks.{i}.", _state(baseline, start, i, rows.sample[part], replaced), False)
        return x[:, -1]

    def _run(self, baseline: Baseline, start: int, n: int) -> Run:
        here = torch.full((n,), start, device=self.model.device)
        width = baseline.length - start
        return Run(
            "prefill", offset=here, lengths=torch.full_like(here, width), anchor=here + width, width=width,
            continues=start > 0, edits=self.model.edits,
        )  # fmt: skip

    def _scores(self, baseline: Baseline, residual: Tensor) -> Tensor:
        """The metric (n,) of residual streams (n, d) after the last block."""
        scores: list[Tensor] = []
        for part in torch.split(residual, self._memory.rows_read_out):
            here = torch.full((len(part),), baseline.length - 1, device=part.device)
            run = Run("prefill", here, torch.ones_like(here), here + 1, 1, True, edits=self.model.edits)
            scores.append(self._metric(self.model.head(part[:, None], run)[:, 0]))
        return torch.cat(scores)


class _Rows:
    """Items x samples as rows, the samples of an item side by side. All tensors (rows,).

    first: see `Restored`. kinds: the restorations that occur. residual: where the restoration is what enters a block.
    """

    def __init__(self, items: Sequence[Restored], samples: int, device: torch.device) -> None:
        self._items, self._samples = items, samples
        self.kinds = list(dict.fromkeys(item.restoration for item in items))
        self.index = torch.arange(len(items) * samples, device=device)
        self.sample = self.index % samples
        self.first = self._per_row([item.first for item in items])
        self.residual = self._per_row([item.restoration.residual is not None for item in items])

    def _per_row(self, values: Sequence[int]) -> Tensor:
        return torch.as_tensor(values, device=self.index.device).repeat_interleave(self._samples)

    def restored_at(self, layer: int, inside: bool) -> Tensor:
        """The number in `kinds` of what is restored at `layer`, -1 for nothing. inside: not what enters a block."""
        numbers: list[int] = []
        for item in self._items:
            counts = layer in item.window and not (inside and item.restoration.residual is not None)
            numbers.append(self.kinds.index(item.restoration) if counts else -1)
        return self._per_row(numbers)


def _state(baseline: Baseline, start: int, layer: int, sample: Tensor, replaced: dict[str, Tensor]) -> LayerState:
    """The state before position `start` of the corrupted runs of these samples; the clean run's where `replaced`."""
    held = baseline.after[layer] if start > baseline.at else baseline.before[layer]
    corrupted = 1 + sample
    return {
        name: value.index_select(0, torch.where(replaced[name], 0, corrupted) if name in replaced else corrupted)
        for name, value in held.items()
    }
