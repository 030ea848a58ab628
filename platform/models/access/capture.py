"""Captures: seeing the tensors of sites during forward passes, and filling an `Activations` with them.

Tensors are detached from the autograd graph, and not copied, unless the capture asks for gradients; for gradients with
respect to a state site see `states`. How the tensors of several passes become one is said in `activations`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.errors import UsageError
from .activations import Activations, Piece, Record
from .coverage import Coverage
from .run import Run, take
from .sites import Selection, Site, expand, parse


class Recorder:
    """Fills an `Activations` from the forward passes of one model. gradients: keep the autograd history."""

    def __init__(self, specs: Sequence[str], sites: Sequence[Site], gradients: bool = False) -> None:
        if not specs:
            raise UsageError("capture needs at least one site name")
        self.activations = Activations()
        self._gradients, self._texts = gradients, False
        self._sites = {site.name: site for site in sites}
        self._wanted: dict[str, list[Selection]] = {}
        self._patterns = [parse(spec) for spec in specs]
        self._fired: set[Selection] = set()
        self._pattern_of: dict[tuple[str, Selection], Selection] = {}
        self._ends: Tensor | None = None  # (B,): how many tokens of each text precede what comes next
        for pattern in self._patterns:
            for site in expand(pattern, sites):
                selection = Selection(site.name, pattern.positions, pattern.channels)
                known = self._wanted.setdefault(site.name, [])
                if selection not in known:
                    known.append(selection)
                self._pattern_of[site.name, selection] = pattern
        self.coverages = [Coverage(f"capture of {p}", p) for p in self._patterns if p.positions is not None]

    # -- forward passes -----------------------------------------------------------------------------------------

    def follow(self, run: Run) -> None:
        """A forward pass begins: decide whether it continues the record or starts anew."""
        for coverage in self.coverages:
            coverage.follow(run)
        acts = self.activations
        if not acts._calls.pieces or not run.continues or not self._continued(run):
            acts.clear()
            acts._as_texts, acts._rows = self._texts, len(run.lengths)
            self._ends = run.offset.clone()
            rows = None
        else:
            rows = run.rows
        assert self._ends is not None
        self._ends = self._ends.clone()
        self._ends[slice(None) if rows is None else rows] = run.offset + run.lengths
        columns = torch.arange(run.width, device=run.lengths.device)
        real = run.to_caller(columns[None, :] < run.lengths[:, None])
        acts._calls.pieces.append(Piece(rows, torch.zeros(*real.shape, 0, device=real.device), real))

    def _continued(self, run: Run) -> bool:
        """Whether `run` goes on where the record ends; a record of one row is repeated for several that continue it."""
        ends, n = self._ends, len(run.lengths)
        assert ends is not None
        if run.rows is not None:
            fits = int(run.rows.max()) < len(ends) and len(run.rows.unique()) == n
            return fits and bool((ends[run.rows] == run.offset).all())
        if len(ends) == n:
            return bool((ends == run.offset).all())
        if len(ends) == 1:
            if not bool((run.offset == ends).all()):
                return False
            acts = self.activations
            for record in [acts._calls, *acts._records.values()]:
                record.pieces = [piece.widened(n) for piece in record.pieces]
                record.joined = None
            acts._rows, self._ends = n, ends.expand(n)
            return True
        if bool(torch.isin(run.offset, ends).all()):
            raise UsageError(
                f"a batch of {n} rows continues a text while a capture holds {len(ends)} rows: say with rows= which of "
                "them these are, or capture in a block of its own"
            )
        return False

    def wants(self, site: str) -> list[Selection]:
        """Selections of `site` that were asked for."""
        return self._wanted.get(site, [])

    def record(self, run: Run, site: str, selection: Selection, value: Tensor, picked: bool = False) -> None:
        """Store `value`: (B, T, ...) packed, or where `picked` already (B, P, ...) at the selection's positions."""
        acts = self.activations
        if not acts._calls.pieces:  # cleared while a forward pass runs
            self.follow(run)
        call = acts._calls.pieces[-1]
        if selection.positions is None:
            value, real = run.to_caller(value), call.real
        else:
            column, real = run.positions(selection.positions)
            if not bool(real.any()):
                return
            value = value if picked else take(value, column.clamp(0, value.shape[1] - 1))
        if selection.channels is not None:
            index = torch.as_tensor(selection.channels, device=value.device) % value.shape[2]
            value = value.index_select(2, index)
        record = acts._records.setdefault(_key(site, selection), Record(selection.positions is not None))
        record.pieces.append(Piece(call.rows, value if self._gradients else value.detach(), real))
        self._fired.add(self._pattern_of[site, selection])

    def record_constant(self, site: str, selection: Selection, value: Tensor, axis: int = 0) -> None:
        """Store the `value` (C, ...) or (B, C, ...) of a site without time axis; axis: that of the channels."""
        if selection.channels is not None:
            index = torch.as_tensor(selection.channels, device=value.device) % value.shape[axis]
            value = value.index_select(axis, index)
        self.activations._constants[_key(site, selection)] = value if self._gradients else value.detach()
        self._fired.add(self._pattern_of[site, selection])

    # -- generation, and the end --------------------------------------------------------------------------------

    def begin_texts(self) -> None:
        """Texts are generated from here on: rows are laid out from their first token, whatever the padding."""
        self._texts = self.activations._as_texts = True
        for record in [self.activations._calls, *self.activations._records.values()]:
            record.joined = None

    def end_texts(self) -> None:
        """Texts have been generated: positions that none of them reached are there, as NaN."""
        acts, self._texts = self.activations, False
        device = acts._calls.pieces[0].real.device
        for name, selections in self._wanted.items():
            for selection in selections:
                key = _key(name, selection)
                if selection.positions is None or key in acts._records:
                    continue
                shape = [int(size) for size in self._sites[name].shape[2:]]
                if selection.channels is not None:
                    shape[0] = len(selection.channels)
                size = (acts._rows, len(selection.positions))
                dtype = getattr(torch, self._sites[name].dtype)
                value = torch.full((*size, *shape), torch.nan, dtype=dtype, device=device)
                real = torch.zeros(size, dtype=torch.bool, device=device)
                acts._records[key] = Record(True, [Piece(None, value, real)])
                self._fired.add(self._pattern_of[name, selection])

    def check(self) -> None:
        """Raise UsageError for every selection that never saw a tensor, and for rows without a named position."""
        silent = [str(p) for p in self._patterns if p not in self._fired]
        if silent:
            raise UsageError(
                f"capture of {', '.join(silent)} never fired: no forward pass ran, or none had these positions"
            )
        for coverage in self.coverages:
            coverage.close()
        lacking = next((c.lacking for c in self.coverages if c.lacking is not None), None)
        if lacking is not None:
            raise UsageError(lacking)


def _key(site: str, selection: Selection) -> tuple[str, str]:
    return site, str(selection)[len(site) :]


#: sites that hold a state at a time step, or what it was given there; a mixer computes them only where they are wanted
STATE_SITES = frozenset({"h", "h_post", "conv_state", "h_fused", "write"})
