"""Checks and conversions that every kernel call goes through once, whatever the backend.

Promises: a wrong shape, dtype, device or position is a UsageError that names the argument and both values; after
`floating` all tensors share one dtype, float64 for a float64 input and float32 for every other floating type; `Readout`
gives the backends one simple request (sorted distinct positions) and puts the answers back into the order that the
caller asked for. No arithmetic happens here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError


def expect_shape(call: str, name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """UsageError unless `tensor` has exactly the shape `expected`; `meaning` spells the axes, e.g. "(batch, time,
    channels)"."""
    if tuple(tensor.shape) != expected:
        raise UsageError(f"{call}: {name} has shape {tuple(tensor.shape)}, expected {expected} = {meaning}")


def expect_rank(call: str, name: str, tensor: Tensor, meaning: str) -> tuple[int, ...]:
    """The shape of `tensor`, or UsageError when it has not as many axes as `meaning` spells or its time axis (1) is
    empty."""
    rank = meaning.count(",") + 1
    if tensor.ndim != rank:
        raise UsageError(f"{call}: {name} has shape {tuple(tensor.shape)}, expected {rank} axes {meaning}")
    if rank > 2 and tensor.shape[1] == 0:
        raise UsageError(f"{call}: empty sequence, {name} has shape {tuple(tensor.shape)} = {meaning}")
    return tuple(tensor.shape)


def floating(call: str, tensors: dict[str, Tensor | None]) -> list[Tensor | None]:
    """The tensors in the dtype of the computation. The first one sets it: float64 stays float64, everything else
    becomes float32."""
    first_name, first = next(iter(tensors.items()))
    assert first is not None
    double = first.dtype == torch.float64
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise UsageError(f"{call}: {name} has dtype {tensor.dtype}, expected a floating type")
        if (tensor.dtype == torch.float64) != double:
            raise UsageError(
                f"{call}: {name} has dtype {tensor.dtype} but {first_name} has {first.dtype}; "
                "use float64 for all or for none"
            )
        if tensor.device != first.device:
            raise UsageError(
                f"{call}: {name} is on {tensor.device} but {first_name} is on {first.device}; move them to one device"
            )
    dtype = torch.float64 if double else torch.float32
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors.values()]


def expect_reset(call: str, reset: Tensor | None, batch: int, time: int) -> None:
    """UsageError unless `reset` is None or a boolean (batch, time) tensor."""
    if reset is None:
        return
    if reset.dtype != torch.bool:
        raise UsageError(f"{call}: reset has dtype {reset.dtype}, expected torch.bool")
    expect_shape(call, "reset", reset, (batch, time), "(batch, time)")


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Autocast off: it would run the matrix products inside a kernel in bfloat16."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


class Readout(NamedTuple):
    """Which states a call wants: what the backend must deliver, and how the caller sees it."""

    positions: tuple[int, ...]
    """Sorted distinct time indices for the backend."""
    final: bool
    """The caller wants the final state; then the last entry of `positions` is the last time index."""
    order: tuple[int, ...] | None
    """For each requested position its place in `positions`; None when the caller asked for none."""
    documents: tuple[Tensor, Tensor] | None = None
    """For each document its row and the place of its last token in `positions`; None when the caller asked for none."""

    def answer(self, y: Tensor, states: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """`y` alone, or (y[, state][, states][, states of documents]) as requested; `states` is (batch, positions,
        ...)."""
        if not self.final and self.order is None and self.documents is None:
            return y
        assert states is not None
        found: tuple[Tensor, ...] = (y,)
        if self.final:
            found += (states[:, -1],)
        if self.order is not None:
            if self.order == tuple(range(len(self.positions))):
                found += (states,)
            else:
                found += (states.index_select(1, torch.tensor(self.order, dtype=torch.long, device=states.device)),)
        if self.documents is not None:
            found += (states[self.documents],)
        return found


def readout(
    call: str,
    states_at: Tensor | Sequence[int] | None,
    return_state: bool,
    time: int,
    ends: tuple[Tensor, Tensor] | None = None,
) -> Readout:
    """Read `states_at` (1-D tensor or list of indices in 0..time-1, any order, repeats allowed) and `return_state`;
    `ends`, rows and times, where the states of documents are wanted."""
    wanted: list[int] | None = None
    if isinstance(states_at, Tensor):
        if states_at.ndim != 1 or states_at.is_floating_point() or states_at.dtype == torch.bool:
            raise UsageError(
                f"{call}: states_at has shape {tuple(states_at.shape)} and dtype {states_at.dtype}, "
                "expected a 1-D integer tensor"
            )
        wanted = [int(index) for index in states_at.tolist()]
    elif states_at is not None:
        wanted = [int(index) for index in states_at]
    outside = [index for index in wanted or [] if not 0 <= index < time]
    if outside:
        raise UsageError(
            f"{call}: states_at holds {outside[0]}, outside of 0..{time - 1} (the sequence has {time} steps)"
        )
    # An empty request still needs one state, to give the empty answer its shape.
    last: list[int] = [] if ends is None else ends[1].tolist()
    needed = return_state or wanted == [] or (ends is not None and not last)
    distinct = sorted(set(wanted or []) | set(last) | ({time - 1} if needed else set()))
    place = {position: slot for slot, position in enumerate(distinct)}
    order = None if wanted is None else tuple(place[index] for index in wanted)
    if ends is None:
        return Readout(tuple(distinct), return_state, order)
    slots = torch.tensor([place[index] for index in last], dtype=torch.long, device=ends[0].device)
    return Readout(tuple(distinct), return_state, order, (ends[0], slots))
