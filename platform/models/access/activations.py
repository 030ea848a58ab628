"""`Activations`: what a capture has seen, as one tensor for each site, put together from several forward passes.

One forward pass. (B, T, ...) in the caller's layout, or (B, P, ...) where the selection has positions.

Several that continue each other, such as generation: one tensor for prompt and new tokens. Each row's tokens stand in
their order from column 0, those of a row that ended before others are followed by NaN, `lengths` says how many there
are and `mask` where. The last token that generation chooses is not fed back, so nothing is computed at it. A row that
leaves the batch keeps its place: whoever decodes by hand says with `rows` of the forward pass which rows are left. A
batch continues the record if it stands, row by row, where the record ends; one row that is continued by several is
repeated. Everything else starts anew and replaces what was there: of several calls of `generate` the last one is kept.

Positions. Each named position of each row once, also where one call has it and another call has the next; of a position
that several calls have (-1 of each chunk), the last. A text that has none of them is an error at the end of the block,
alone and in a batch; one that lacks some, or was generated and ended before them, has NaN there (see `coverage`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError, suggest
from .run import take
from .sites import parse


class Piece(NamedTuple):
    """What one forward pass added to a record. rows (b,): rows of the batch, None for all; value (b, T or P, ...); real
    (b, T or P): False at padding and at positions that are not in this call."""

    rows: Tensor | None
    value: Tensor
    real: Tensor

    def widened(self, n: int) -> Piece:
        """A single row as `n` rows."""
        return Piece(None, self.value.expand(n, *self.value.shape[1:]), self.real.expand(n, -1))

    def spread(self, n: int) -> tuple[Tensor, Tensor]:
        """Value and real over all `n` rows of the batch, NaN and False in those that had left it."""
        if self.rows is None:
            return self.value, self.real
        value = self.value.new_full((n, *self.value.shape[1:]), torch.nan).index_copy(0, self.rows, self.value)
        return value, self.real.new_zeros(n, self.real.shape[1]).index_copy(0, self.rows, self.real)


@dataclass
class Record:
    """One captured selection. at_positions: its pieces are the same P columns, not columns side by side."""

    at_positions: bool
    pieces: list[Piece] = field(default_factory=list)
    joined: tuple[int, tuple[Tensor, Tensor]] | None = None  # with how many pieces it was made

    def whole(self, n: int, as_texts: bool) -> tuple[Tensor, Tensor]:
        """The tensor of all pieces and where it is real, for a batch of `n` rows."""
        if self.joined is None or self.joined[0] != len(self.pieces):
            self.joined = (len(self.pieces), self._positions(n) if self.at_positions else self._texts(n, as_texts))
        return self.joined[1]

    def _positions(self, n: int) -> tuple[Tensor, Tensor]:
        value, real = self.pieces[0].spread(n)
        for piece in self.pieces[1:]:
            new, there = piece.spread(n)
            value = torch.where(_beside(there, new), new, value)
            real = real | there
        return (value if bool(real.all()) else value.masked_fill(~_beside(real, value), torch.nan)), real

    def _texts(self, n: int, as_texts: bool) -> tuple[Tensor, Tensor]:
        if len(self.pieces) == 1 and not as_texts:
            return self.pieces[0].value, self.pieces[0].real
        parts = [piece.spread(n) for piece in self.pieces]
        value, real = torch.cat([v for v, _ in parts], 1), torch.cat([r for _, r in parts], 1)
        if bool(real.all()):
            return value, real
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)[:, : int(real.sum(1).max())]
        value, real = take(value, order), take(real, order)
        return value.masked_fill(~_beside(real, value), torch.nan), real


def _beside(real: Tensor, value: Tensor) -> Tensor:
    """real (B, T) with as many axes as value (B, T, ...)."""
    return real.view(*real.shape, *[1] * (value.ndim - 2))


class Activations(Mapping[str, Tensor]):
    """Captured tensors by site name; see the module for their layout.

    Where one site was captured with two different selections, the key is the full selection
    (`blocks.0.mixer.h@[3]`); otherwise both forms are accepted.
    """

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], Record] = {}
        self._constants: dict[tuple[str, str], Tensor] = {}
        self._calls = Record(at_positions=False)  # of values (b, T, 0): what every call had of every text
        self._rows = 0
        self._as_texts = False

    def _keys(self) -> dict[str, tuple[str, str]]:
        found = [*self._records, *self._constants]
        names = Counter(site for site, _ in found)
        return {(site if names[site] == 1 else site + text): (site, text) for site, text in found}

    def _find(self, key: str) -> tuple[str, str]:
        keys = self._keys()
        if key in keys:
            return keys[key]
        selection = parse(key)
        full = (selection.name, str(selection)[len(selection.name) :])
        if full in self._records or full in self._constants:
            return full
        raise KeyError(f"no captured site {key!r}; {suggest(key, keys) if keys else 'nothing has been captured yet'}")

    def __getitem__(self, key: str) -> Tensor:
        found = self._find(key)
        if found in self._constants:
            return self._constants[found]
        return self._records[found].whole(self._rows, self._as_texts)[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._records) + len(self._constants)

    @property
    def mask(self) -> Tensor:
        """(B, T) bool: where tensors captured without positions hold a token of their row's text; UsageError before a
        run."""
        if not self._calls.pieces:
            raise UsageError("nothing has been captured yet: run the model inside the block")
        return self._calls.whole(self._rows, self._as_texts)[1]

    @property
    def lengths(self) -> Tensor:
        """(B,): how many tokens of each row's text were captured."""
        return self.mask.sum(1)

    def present(self, key: str) -> Tensor:
        """(B, T) or (B, P) bool: where the tensor of `key` holds a value of its row, and not NaN or padding.

        Raises UsageError for a site without rows.
        """
        found = self._find(key)
        if found in self._constants:
            raise UsageError(f"site {key!r} has no time axis: it is the same for all tokens, or there before them")
        return self._records[found].whole(self._rows, self._as_texts)[1]

    def clear(self) -> None:
        """Forget everything captured so far."""
        self.__init__()
