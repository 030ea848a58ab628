"""What the Triton kernels share: the compiler, the device they run on, and the state carried from chunk to chunk.

Promises: only the files of Triton kernels import this file, so nothing else needs the compiler; the kernels compute in
the floating type of their tensors, float32 or float64; a launch goes to the device of its tensors, whatever the current
one is; sums over programs go through buffers in a fixed order, never through atomics, so that a result has the same
bits in every run.

Contractions into fused multiply-adds are asked for by name in every launch: Triton's default for them differs between
versions.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

# Loaded by name: the package is not there on a machine without a GPU, and has no types that a checker could use.
triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")
if TYPE_CHECKING:
    from typing import Any as constexpr
else:
    # Triton finds compile-time arguments by this word in their annotation.
    constexpr = tl.constexpr

CARRY_BLOCK = 256


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def reset_bytes(reset: Tensor | None) -> Tensor | None:
    """The mask (B,T) as bytes, which every version of Triton can load."""
    return None if reset is None else reset.contiguous().view(torch.uint8)


def chunks_with_reset(reset: Tensor | None, count: int, steps: int) -> Tensor | None:
    """(B,T) -> (B,count) bytes: does a document start inside the chunk."""
    if reset is None:
        return None
    padded = torch.nn.functional.pad(reset, (0, count * steps - reset.shape[1]))
    return padded.view(reset.shape[0], count, steps).any(2).view(torch.uint8)


@triton.jit
def _carry(
    states, A, total, cut, start, final, length, count, rate_span, sum_span, REVERSE: constexpr, BLOCK: constexpr
):
    batch = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = m < length
    rate = tl.load(A + m // rate_span, mask=inside, other=0.0)
    state = tl.zeros((BLOCK,), states.dtype.element_ty)
    if start is not None:
        state = tl.load(start + batch * length + m, mask=inside, other=0.0)
    for i in range(0, count):
        if REVERSE:
            row = batch * count + (count - 1 - i)
        else:
            row = batch * count + i
        sums = tl.load(total + row * (length // sum_span) + m // sum_span, mask=inside, other=0.0)
        added = tl.load(states + row * length + m, mask=inside, other=0.0)
        tl.store(states + row * length + m, state, mask=inside)
        if cut is not None:
            # where, not a product: 0 * inf would carry the old document's overflow into the new one.
            state = tl.where(tl.load(cut + row) != 0, 0.0, state)
        state = tl.exp(rate * sums) * state + added
    if final is not None:
        tl.store(final + batch * length + m, state, mask=inside)


def carry(
    states: Tensor, A: Tensor, total: Tensor, cut: Tensor | None, start: Tensor | None, *, reverse: bool = False
) -> Tensor:
    """Run s' = exp(A total) s + added over the chunks, from the last one if `reverse`; a cut chunk lets no s through.

    states (B, count, *state) holds what each chunk adds and afterwards, in place, the s that comes into it. A covers
    the leading axes of a state, one or more; total (B, count, leading axes of a state), the sum of Delta over the
    chunk; cut (B, count) or None; start (B, *state), zero if None. Returns the s that leaves the last (B, *state).
    """
    batch, count = states.shape[:2]
    length = states[0, 0].numel()
    final = states.new_empty(batch, *states.shape[2:])
    with on_device(states):
        _carry[batch, triton.cdiv(length, CARRY_BLOCK)](
            states, A, total, cut, start, final, length, count, length // A.numel(), length // total[0, 0].numel(),
            REVERSE=reverse, BLOCK=CARRY_BLOCK, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return final
