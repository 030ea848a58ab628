"""A pool of states (S, ...): sequences of a batch take their state from a row of it and leave the next one there.

`state_rows` (B) names the row of each sequence, -1 none: such a sequence starts from zero and leaves nothing. Promises:
what is read is a copy, in the type of the pool what is written; rows that no sequence names stay as they are; two
sequences that would leave their states in one row are a UsageError, two that only read one row are not; differentiable
in the pool unless it is overwritten in place. The numbers are looked at, so on a GPU a call waits for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.errors import UsageError
from .arguments import expect_shape


def starting_state(
    call: str,
    given: Tensor | None,
    state_rows: Tensor | None,
    shape: tuple[int, ...],
    meaning: str,
    *,
    name: str = "initial_state",
    written: bool,
    inplace: bool = False,
) -> Tensor | None:
    """The states that a call begins with, of `shape`, (batch, ...): `given` itself or, with `state_rows`, what they
    take from it. `meaning` spells the axes after the first; `written` says that the next states go back.

    Raises UsageError for another shape, for rows that the pool does not have, and for a row that two would write.
    """
    if state_rows is None:
        if inplace:
            raise UsageError(f"{call}: inplace writes into a pool of states; name its rows with state_rows")
        if given is not None:
            expect_shape(call, name, given, shape, f"(batch, {meaning})")
        return given
    if given is None:
        raise UsageError(f"{call}: state_rows without a pool of states; give the pool as {name}")
    if inplace and not written:
        raise UsageError(f"{call}: inplace without return_state, which is what writes into the pool")
    if inplace and given.requires_grad and torch.is_grad_enabled():
        raise UsageError(f"{call}: inplace would overwrite a pool that needs a gradient; leave inplace out")
    if state_rows.device != given.device:
        raise UsageError(
            f"{call}: state_rows is on {state_rows.device} but {name} is on {given.device}; move them to one device"
        )
    if state_rows.is_floating_point() or state_rows.is_complex() or state_rows.dtype == torch.bool:
        raise UsageError(f"{call}: state_rows has dtype {state_rows.dtype}, expected integers")
    expect_shape(call, "state_rows", state_rows, shape[:1], "(batch,)")
    rows = given.shape[0] if given.ndim else 0
    expect_shape(call, name, given, (rows, *shape[1:]), f"(rows of the pool, {meaning})")
    outside = state_rows[(state_rows < -1) | (state_rows >= rows)].tolist()
    if outside:
        raise UsageError(
            f"{call}: state_rows holds {outside[0]}, which is neither one of the pool's {rows} rows nor -1"
        )
    named, counts = state_rows[state_rows >= 0].unique(return_counts=True)
    if written and bool((counts > 1).any()):
        twice = int(named[counts > 1][0])
        raise UsageError(f"{call}: state_rows holds {twice} twice; two sequences cannot leave their states in one row")
    return _take(given, state_rows)


def _take(pool: Tensor, state_rows: Tensor) -> Tensor:
    named = (state_rows >= 0).nonzero().flatten()
    found = pool.index_select(0, state_rows[named].long())
    if len(named) == len(state_rows):
        return found
    return pool.new_zeros(len(state_rows), *pool.shape[1:]).index_copy(0, named, found)


def put(pool: Tensor, state_rows: Tensor, states: Tensor, inplace: bool) -> Tensor:
    """The pool with `states` (B, ...) in their rows: in its own memory if `inplace`, else a new one."""
    named = (state_rows >= 0).nonzero().flatten()
    at, states = state_rows[named].long(), states.index_select(0, named).to(pool.dtype)
    return pool.index_copy_(0, at, states) if inplace else pool.index_copy(0, at, states)


def pooled(
    found: Tensor | tuple[Tensor, ...], pool: Tensor | None, state_rows: Tensor | None, inplace: bool
) -> Tensor | tuple[Tensor, ...]:
    """The answer of a call with `return_state`, (y, state, ...), with the pool in place of the state where there is
    one."""
    if pool is None or state_rows is None:
        return found
    y, state, *rest = found
    return (y, put(pool, state_rows, state, inplace), *rest)
