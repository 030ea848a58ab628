"""States of one layer as other layers see them: read with vectors of their own, without keeping a state for every step.

A factor g per channel commutes with the sum over the N coordinates of a state,
    C_t . (g_t * h_t) = g_t * (C_t . h_t),
so a layer that reads another one's states needs that layer's recurrence once more with its own read vectors C, and no
tensor (B, T, E, N). The vectors are not known before the other layer has answered: one pass over its recurrence cannot
serve both. Edits of the states are felt by every reader: their deviations are linear too and are read the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...access.run import Run
from ...access.states import Scanned, StateChange
from ...kernels.arguments import full_precision
from ...parts.recurrence import SegmentScan
from ..mamba.mamba import SelectiveScan


@dataclass(frozen=True)
class LayerStates:
    """The states h_t (B, E, N) of one layer in one call, as the layer's own read-outs see them.

    changes: what edits did to them. added (B, T, E, N) or None: what they hold beyond the recurrence. held (B, T, E, N)
    or None: the states themselves, edits and additions included, where they are in memory anyway.
    """

    recurrence: SelectiveScan
    changes: list[StateChange]
    added: Tensor | None = None
    held: Tensor | None = None

    def read(self, C: Tensor) -> Tensor:
        """C_t . h_t (B, T, E) for C (B, T, N)."""
        if self.held is not None:
            return contract(self.held, C).to(C.dtype)
        assert self.added is None, "states beyond the recurrence are held"
        other = self.recurrence._replace(C=C, D=None)
        y = other.scan(0, C.shape[1], True, other.start, None).y
        if not self.changes:
            return y
        columns = [change.column for change in self.changes]
        seen = contract(torch.stack([change.seen for change in self.changes], 1), C[:, columns])
        pieces = [y.new_zeros(len(y), columns[0], y.shape[2], dtype=seen.dtype)]
        for j, (change, stop) in enumerate(self._spans(C.shape[1])):
            pieces.append(seen[:, j : j + 1])
            if change.column + 1 < stop:
                pieces.append(other.scan(change.column + 1, stop, False, change.after, None).y)
        return y + torch.cat(pieces, 1).to(y.dtype)

    def at(self, columns: list[int]) -> Tensor:
        """The states (B, P, E, N) at packed columns, ascending."""
        if self.held is not None:
            return self.held if len(columns) == self.held.shape[1] else self.held[:, columns]
        recurrence, width = self.recurrence, self.recurrence.x.shape[1]
        states = recurrence.scan(0, width, True, recurrence.start, columns).states
        if self.added is not None:
            states = states + self.added[:, columns]
        if not self.changes:
            return states
        deviations: dict[int, Tensor] = {}
        for change, stop in self._spans(width):
            deviations[change.column] = change.seen
            inside = [column for column in columns if change.column < column < stop]
            if inside:
                steps = [column - change.column - 1 for column in inside]
                found = recurrence.scan(change.column + 1, stop, False, change.after, steps).states
                deviations |= dict(zip(inside, found.unbind(1), strict=True))
        none = torch.zeros_like(states[:, 0])
        return states + torch.stack([deviations.get(column, none) for column in columns], 1)

    def _spans(self, width: int) -> list[tuple[StateChange, int]]:
        """Each change, with the column before which no other change happens."""
        stops = [change.column for change in self.changes[1:]] + [width]
        return list(zip(self.changes, stops, strict=True))


def contract(states: Tensor, C: Tensor) -> Tensor:
    """The read-outs (B, P, E) of states (B, P, E, N) with vectors C (B, P, N), in the dtype of the states."""
    with full_precision(states):
        return torch.einsum("bpen,bpn->bpe", states, C.to(states.dtype))


def accumulate(recurrence: SelectiveScan, inputs: Tensor) -> Tensor:
    """The states k_t = exp(Delta_t A) k_{t-1} + inputs_t (B, T, E, N), from zero, all of them."""
    steps: list[Tensor] = []
    for t, (delta, entering) in enumerate(zip(recurrence.delta.unbind(1), inputs.unbind(1), strict=True)):
        if not steps:
            steps.append(entering)
            continue
        before = steps[-1]
        if recurrence.reset is not None:
            before = before.masked_fill(recurrence.reset[:, t, None, None], 0.0)
        steps.append(torch.exp(delta.to(inputs.dtype)[..., None] * recurrence.A) * before + entering)
    return torch.stack(steps, 1)


def scan_and_add(recurrence: SelectiveScan, added: Tensor) -> SegmentScan:
    """The scan of `recurrence` over the whole call, with `added` (B, T, E, N) on top of its states."""

    def scan(start: int, stop: int, driven: bool, h: Tensor | None, states_at: list[int] | None) -> Scanned:
        found = recurrence.scan(start, stop, driven, h, states_at)
        if not driven:  # only a deviation, which is linear: what was added is in the states it deviates from
            return found
        assert stop - start == added.shape[1], "the driven scan is that of the whole call"
        columns = states_at or [stop - 1]
        y = found.y + contract(added, recurrence.C).to(found.y.dtype)
        return Scanned(y, found.final + added[:, -1], found.states + added[:, columns])

    return scan


def read_fused(run: Run, name: str, columns: list[int], fused: Tensor, C: Tensor, y: Tensor) -> Tensor:
    """y (B, T, E) after the edits of the state site `name`, whose values (B, P, E, N) at `columns` are read with C.

    Unlike an edit of `h`, one of these states is felt at its own step only: no later state is made from it.
    """
    if not run.edited(name):
        run.show_at(name, columns, fused)
        return y
    edited = torch.stack([run.site_at(name, column, fused[:, j]) for j, column in enumerate(columns)], 1)
    run.show_at(name, columns, edited)
    change = contract(edited - fused, C[:, columns]).to(y.dtype)
    return y + torch.zeros_like(y).index_copy(1, torch.as_tensor(columns, device=y.device), change)
