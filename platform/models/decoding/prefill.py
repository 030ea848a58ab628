"""Reading the prompts of a batch: beginnings that several prompts share are read once, and their state is forked.

`read` gives each row's scores for its next token and the state after it, as one forward pass over the whole batch
would, up to rounding: a shared beginning is a chunk of its own. Captures see whole prompts only, so inside a `capture`
nothing is shared; nor where an edit's tensor or mask has an entry for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError
from ..access.coverage import whole_texts
from ..access.edit_kinds import KINDS
from ..state import ModelState

if TYPE_CHECKING:
    from ..model import LanguageModel

# A forward pass more costs about as much as this many tokens of a tiny model; and a gain of less than a fifth is noise.
MIN_SAVED_TOKENS = 64
MIN_SAVED_SHARE = 0.2
# Below this a common beginning is chance ("The ..."), and joining over it would hide the longer one of the next rows.
MIN_BEGINNING = 16


class Beginning(NamedTuple):
    """A beginning of `length` tokens that `rows` share."""

    length: int
    rows: tuple[int, ...]


def pad(rows: Sequence[Sequence[int]], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of token ids as (B, T) tokens, right-padded with `fill`, and their mask."""
    width = max(len(r) for r in rows)
    tokens = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.as_tensor(row)
        mask[i, : len(row)] = True
    return tokens, mask


def beginnings(rows: Sequence[Sequence[int]], after: Sequence[int], leave: int = 1) -> list[Beginning]:
    """The beginnings worth reading once; none where that saves too little.

    after: what each row continues; rows that continue different things share nothing. leave: how many tokens of every
    row a beginning must leave, at least 1, because a row's scores come from its last token.
    """
    order = sorted(range(len(rows)), key=lambda i: (after[i], list(rows[i])))
    found: list[Beginning] = []
    group, length = [order[0]], len(rows[order[0]]) - leave
    for last, row in zip(order, [*order[1:], None], strict=True):
        common = 0
        if row is not None and after[last] == after[row]:
            common = min(_common(rows[last], rows[row]), len(rows[row]) - leave, length)
        # A row joins if what all of them share is worth more than what the rows so far share without it.
        if row is not None and common >= MIN_BEGINNING and common * len(group) >= length * (len(group) - 1):
            group, length = [*group, row], common
            continue
        if len(group) > 1:
            found.append(Beginning(length, tuple(group)))
        if row is not None:
            group, length = [row], len(rows[row]) - leave
    saved = sum(b.length * (len(b.rows) - 1) for b in found)
    worth = saved >= max(MIN_SAVED_TOKENS, MIN_SAVED_SHARE * sum(map(len, rows)))
    return found if worth else []


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens agree."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@torch.no_grad()
def read(
    model: LanguageModel, rows: Sequence[Sequence[int]], state: ModelState | None = None, share: bool = True
) -> tuple[Tensor, ModelState]:
    """Scores (B, V) for the token after each row, and the state there.

    state: what the model has read before, one row per prompt, or a single row that every prompt continues. Raises
    UsageError for any other number of rows.
    """
    before = [0] if state is None else state.position.tolist()
    before = before * len(rows) if len(before) == 1 else before
    with whole_texts(model, before, [len(row) for row in rows]):
        rest, state = read_beginnings(model, rows, state, share)
        return read_rest(model, rest, state)


@torch.no_grad()
def read_beginnings(
    model: LanguageModel, rows: Sequence[Sequence[int]], state: ModelState | None = None, share: bool = True
) -> tuple[list[Sequence[int]], ModelState | None]:
    """What is left of each row, at least a token, after the beginnings that rows share, and the state there (a row per
    prompt), None where nothing has been read. Arguments and errors as in `read`."""
    after = list(range(len(rows)))
    if state is None:
        after = [0] * len(rows)
    elif len(state.position) == 1 < len(rows):
        state, after = state.rows([0] * len(rows)), [0] * len(rows)
    elif len(state.position) != len(rows):
        raise UsageError(f"a state of {len(state.position)} rows does not fit {len(rows)} prompts: give one row or all")
    leave = _tokens_to_leave(model) if share and len(rows) > 1 else None
    rest: list[Sequence[int]] = list(rows)
    while leave is not None and (shared := beginnings(rest, after, leave)):
        state, after = _fork(model, rest, shared, state)
        cut = {i: b.length for b in shared for i in b.rows}
        rest = [row[cut.get(i, 0) :] for i, row in enumerate(rest)]
    return rest, state


@torch.no_grad()
def read_rest(
    model: LanguageModel, rest: Sequence[Sequence[int]], state: ModelState | None
) -> tuple[Tensor, ModelState]:
    """Scores and state, as in `read`, after what `read_beginnings` has left, in one forward pass."""
    tokens, mask = pad(rest)
    tokens, mask = tokens.to(model.device), mask.to(model.device)
    scores, found = model(tokens, mask, state=state, return_state=True, phase="prefill", last_only=True)
    return scores[:, 0], found


def _tokens_to_leave(model: LanguageModel) -> int | None:
    """How many last tokens of a row must be read row by row; None where nothing may be shared."""
    if model.captures:
        return None
    leave = 1
    for applied in model.edits:
        edit = applied.edit
        if type(edit) not in KINDS.values() or edit.of_rows:  # what others make may go by the row in its own way
            return None
        leave = max([leave, *(-p for p in edit.selection.positions or () if p < 0)])
    return leave


def _fork(
    model: LanguageModel, rows: Sequence[Sequence[int]], shared: list[Beginning], state: ModelState | None
) -> tuple[ModelState, list[int]]:
    """The state after each row's shared beginning, where it has one, and what rows now continue, as a number each."""
    first = [b.rows[0] for b in shared]
    tokens, mask = pad([rows[b.rows[0]][: b.length] for b in shared])
    before = None if state is None else state.rows(first)
    offset = torch.zeros(len(first), dtype=torch.long) if before is None else before.position.cpu()
    ends = offset + torch.tensor([min(len(rows[i]) for i in b.rows) for b in shared])
    _, forks = model(
        tokens.to(model.device), mask.to(model.device), state=before, return_state=True, phase="prefill",
        anchor=ends.to(model.device), last_only=True,
    )  # fmt: skip
    source = {i: g for g, b in enumerate(shared) for i in b.rows}
    own = state if state is not None else model.zero_state(1)
    index = [source.get(i, len(shared) + (i if state is not None else 0)) for i in range(len(rows))]
    return ModelState.concat([forks, own]).rows(index), index
