"""One forward pass: where each column stands in its sequence, and which edits and captures act on it.

The backbone makes a `Run` for each call and hands it to every block. Blocks pass their tensors through `run.site`;
recurrent mixers ask `run.columns` at which time steps a state is wanted, because a state is never materialised for
all steps unless somebody asks for it.

Layout. The caller may pad on either side. Inside, every row is right-padded ("packed"): real tokens first, padding
after. A causal model then needs no mask for its outputs, a carried state always meets the first real token, and a
position is the same number whatever the padding. `order` maps packed columns to the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from .coverage import Coverage
from .sites import Selection

if TYPE_CHECKING:
    from .edits import Edit

Phase = Literal["prefill", "decode"]

#: how the names of the sites end that texts begin with
INITIAL = (".h_init", ".conv_init")


class Capture(Protocol):
    """Something that wants to see a site's tensor (see `capture.Recorder`)."""

    def wants(self, site: str) -> list[Selection]: ...

    def record(self, run: Run, site: str, selection: Selection, value: Tensor, picked: bool = False) -> None: ...

    def record_constant(self, site: str, selection: Selection, value: Tensor, axis: int = 0) -> None: ...


@dataclass
class Applied:
    """An edit in force, resolved to the sites it names, with the number of times it has acted.

    excused: it need not act, because generated texts ended before it could. coverage: of its positions.
    """

    edit: Edit
    sites: frozenset[str]
    fired: int = 0
    excused: bool = False
    coverage: Coverage = field(init=False)

    def __post_init__(self) -> None:
        self.coverage = Coverage(f"edit {self.edit}", self.edit.selection, self.edit.phase)

    def over_after(self, position: Tensor) -> bool:
        """Whether the edit acts no more in rows that have `position` (B,) tokens behind them."""
        if self.edit.phase == "prefill":
            return True
        if all(site.endswith(INITIAL) for site in self.sites):
            return bool((position > 0).all())
        where = self.edit.where
        return where is not None and not self.edit.beyond and bool((position >= where.shape[1]).all())


@dataclass
class Run:
    """State of one forward pass over tokens (B, T).

    offset (B,): real tokens of each row that came before this call. lengths (B,): real tokens in this call.
    anchor (B,): the sequence length from which negative positions count. order (B, T) or None: packed column j holds
    the caller's column order[:, j]. keep (B, T) or None: True at real tokens, in packed layout. rows (B,) or None:
    which rows of the batch at its beginning these are, None for all of them in their order. overwrite: the memory of
    the state that came in may be used again.
    """

    phase: Phase
    offset: Tensor
    lengths: Tensor
    anchor: Tensor
    width: int
    continues: bool
    order: Tensor | None = None
    keep: Tensor | None = None
    reset: Tensor | None = None
    rows: Tensor | None = None
    edits: Sequence[Applied] = ()
    captures: Sequence[Capture] = ()
    overwrite: bool = False
    #: what earlier layers left for later ones in this pass, under keys that the mixers agree on
    shared: dict[str, Any] = field(default_factory=dict)
    _busy: dict[str, bool] = field(default_factory=dict)
    _masked: dict[int, bool] = field(default_factory=dict)
    _begins: list[Tensor | None] = field(default_factory=list)

    def to_packed(self, value: Tensor) -> Tensor:
        """Reorder axis 1 of (B, T, ...) from the caller's columns to packed ones."""
        return value if self.order is None else take(value, self.order)

    def to_caller(self, value: Tensor) -> Tensor:
        """Inverse of `to_packed`."""
        return value if self.order is None else take(value, self.order.argsort(1))

    def wanted(self, last_only: bool, only: Tensor | None) -> Tensor | None:
        """Packed columns (B, A) whose logits are asked for: each row's last real token, the first of an empty row, or
        the caller's columns `only` (B, A); None for all."""
        if last_only:
            return (self.lengths - 1).clamp(min=0)[:, None]
        return only if only is None or self.order is None else self.order.argsort(1).gather(1, only)

    def positions(self, wanted: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Packed columns (B, P) of sequence positions, and which of them (B, P) are real tokens of this call."""
        index = torch.as_tensor(wanted, device=self.offset.device).expand(len(self.offset), -1)
        absolute = torch.where(index < 0, index + self.anchor[:, None], index)
        column = absolute - self.offset[:, None]
        return column, (absolute >= 0) & (column >= 0) & (column < self.lengths[:, None])

    def active(self, site: str) -> bool:
        """Whether any edit or capture acts on `site` in this call (cheap; most sites are idle)."""
        if not self.edits and not self.captures:
            return False
        if site not in self._busy:
            self._busy[site] = bool(self._edits(site)) or any(c.wants(site) for c in self.captures)
        return self._busy[site]

    def plain_step(self, prefix: str) -> bool:
        """Whether this is one token for every row, and no edit or capture acts on a site below `prefix`."""
        if self.width != 1 or self.keep is not None or self.reset is not None or self.captures:
            return False
        sites = (site for a in self.edits if self._in_force(a) for site in a.sites if site.startswith(prefix))
        return not any(not site.endswith(INITIAL) or self.begins is not None for site in sites)

    @property
    def begins(self) -> Tensor | None:
        """(B,): in which rows a text begins in this call; None: in no row.

        Not where its first token starts a packed document, which begins from nothing.
        """
        if not self._begins:
            found = (self.offset == 0) & (self.lengths > 0)
            found = found if self.reset is None else found & ~self.reset[:, 0]
            self._begins.append(found if bool(found.any()) else None)
        return self._begins[0]

    def _edits(self, site: str) -> list[Applied]:
        return [a for a in self.edits if site in a.sites and self._in_force(a)]

    def _in_force(self, applied: Applied) -> bool:
        """Whether the edit acts in this phase, and its mask, if it has one, on a token of this call."""
        edit = applied.edit
        if edit.phase not in ("both", self.phase):
            return False
        if edit.where is None:
            return True
        if id(edit) not in self._masked:  # asked at every site, and edits live as long as the run
            self._masked[id(edit)] = bool(edit.columns(self))
        return self._masked[id(edit)]

    def edited(self, site: str) -> bool:
        """Whether an edit acts on `site` in this call's phase."""
        return bool(self.edits) and bool(self._edits(site))

    def site(self, name: str, value: Tensor) -> Tensor:
        """Apply the edits of site `name` to `value` (B, T, ...), let captures see the result, and return it."""
        if not self.active(name):
            return value
        for applied in self._edits(name):
            value, hit = applied.edit.apply(self, value)
            applied.fired += hit
        self.show(name, value)
        return value

    def constant(self, name: str, value: Tensor) -> Tensor:
        """Like `site`, for a `value` (C, ...) without batch and time axes, such as a filter or mixing weights."""
        if not self.active(name):
            return value
        for applied in self._edits(name):
            value = applied.edit.apply_constant(value)
            applied.fired += 1
        for capture in self.captures:
            for selection in capture.wants(name):
                capture.record_constant(name, selection, value)
        return value

    def beginning(self, name: str, value: Tensor) -> Tensor:
        """Like `site`, for a `value` (B, ...) that texts begin with; the rows in which none begins stay as they are."""
        begins = self.begins
        if begins is None or not self.active(name):
            return value
        for applied in self._edits(name):
            value = applied.edit.apply_beginning(self, begins, value)
            applied.fired += 1
        rows = begins.view(-1, *[1] * (value.ndim - 1))
        for capture in self.captures:
            for selection in capture.wants(name):
                capture.record_constant(name, selection, torch.where(rows, value, torch.nan), axis=1)
        return value

    def show(self, name: str, value: Tensor) -> None:
        """Let captures of `name` record `value` (B, T, ...) in packed layout."""
        for capture in self.captures:
            for selection in capture.wants(name):
                capture.record(self, name, selection, value)

    def columns(self, *names: str) -> list[int]:
        """Packed columns at which an edit or capture of any of these state sites acts, ascending."""
        wanted: set[int] = set()
        for name in names:
            for applied in self._edits(name):
                columns = applied.edit.columns(self)
                if columns is None:
                    return list(range(self.width))
                wanted.update(columns)
            for selection in (s for c in self.captures for s in c.wants(name)):
                if selection.positions is None:
                    return list(range(self.width))
                column, valid = self.positions(selection.positions)
                wanted.update(column[valid].tolist())
        return sorted(wanted)

    def site_at(self, name: str, column: int, value: Tensor) -> Tensor:
        """Apply the edits of state site `name` to `value` (B, ...), the state at one packed column."""
        for applied in self._edits(name):
            value, hit = applied.edit.apply_at(self, column, value)
            applied.fired += hit
        return value

    def show_at(self, name: str, columns: Sequence[int], value: Tensor) -> None:
        """Let captures of `name` see states (B, P, ...) that were computed at packed `columns` (same for all rows)."""
        for capture in self.captures:
            for selection in capture.wants(name):
                if selection.positions is None:  # then `columns` is every column
                    capture.record(self, name, selection, value)
                    continue
                lookup = torch.full((self.width,), 0, device=value.device)
                lookup[torch.as_tensor(columns, device=value.device)] = torch.arange(len(columns), device=value.device)
                column, valid = self.positions(selection.positions)
                if valid.any():
                    at = lookup[column.clamp(0, self.width - 1)]
                    capture.record(self, name, selection, take(value, at), picked=True)


def take(value: Tensor, index: Tensor) -> Tensor:
    """value (B, T, ...) at index (B, P) -> (B, P, ...)."""
    return value[torch.arange(len(value), device=value.device)[:, None], index]


def pack(
    mask: Tensor | None, width: int, rows: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Order, keep-mask and lengths that right-pad the rows of `mask` (B, T); no order or mask if nothing is padded."""
    if mask is None or bool(mask.all()):
        return None, None, torch.full((rows,), width, device=device)
    lengths = mask.sum(1)
    keep = torch.arange(width, device=device)[None, :] < lengths[:, None]
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)
    return order, keep, lengths
