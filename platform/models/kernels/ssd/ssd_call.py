"""The public state-space dual form of Mamba-2: arguments checked, chunk and backend chosen."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ....core.errors import UsageError
from ..arguments import expect_rank, expect_shape, floating, full_precision, readout
from ..backend import select
from ..packing import packing
from ..state_pool import pooled, starting_state

# Measured on two cores: smaller chunks spend their time in the recurrence between them, larger ones in the pairs.
SSD_CHUNK_CPU = 32
SSD_CHUNK_GPU = 128


def ssd(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    chunk: int | None = None,
    initial_state: Tensor | None = None,
    state_rows: Tensor | None = None,
    inplace: bool = False,
    reset: Tensor | None = None,
    seq_idx: Tensor | None = None,
    return_state: bool = False,
    states_at: Tensor | Sequence[int] | None = None,
    return_document_states: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, ...]:
    """The state-space dual form of Mamba-2 (Dao and Gu, arXiv 2405.21060, section 6): a scalar decay per head.

        S_t = exp(delta_t A) S_{t-1} + delta_t x_t (outer) B_t        y_t = S_t C_t + D x_t

    x (B,T,H,P); delta (B,T,H), after the softplus; A (H), negative; B, C (B,T,G,N), each group shared by H/G
    consecutive heads; D (H) or None. chunk: steps handled as one matrix, 32 on a CPU if None; it changes speed and
    rounding only. initial_state (B,H,P,N), or a pool (S,H,P,N) with state_rows. reset, seq_idx, states_at, state_rows,
    inplace, return_document_states: as in `selective_scan`. B or C (G,N): constant in time. Returns y (B,T,H,P), or a
    tuple (y[, state (B,H,P,N)][, states (B, len(states_at), H,P,N)][, states of documents (documents, H,P,N)]).

    Raises UsageError for the reasons listed in `selective_scan`, for heads that do not divide into the groups, and for
    chunk < 1.
    """
    call = "ssd"
    batch, time, heads, width = expect_rank(call, "x", x, "(batch, time, heads, head width)")
    B, C = (each.expand(batch, time, *each.shape) if each.ndim == 2 else each for each in (B, C))
    _, _, groups, size = expect_rank(call, "B", B, "(batch, time, groups, states)")
    expect_shape(call, "delta", delta, (batch, time, heads), "(batch, time, heads)")
    expect_shape(call, "A", A, (heads,), "(heads,)")
    expect_shape(call, "B", B, (batch, time, groups, size), "(batch, time, groups, states)")
    expect_shape(call, "C", C, (batch, time, groups, size), "(batch, time, groups, states)")
    if groups < 1 or heads % groups:
        raise UsageError(f"{call}: x has {heads} heads, which do not divide into the {groups} groups of B")
    if D is not None:
        expect_shape(call, "D", D, (heads,), "(heads,)")
    start = starting_state(
        call, initial_state, state_rows, (batch, heads, width, size), "heads, head width, states",
        written=return_state, inplace=inplace,
    )  # fmt: skip
    packed = packing(call, reset, seq_idx, batch, time)
    if chunk is None:
        chunk = SSD_CHUNK_CPU if x.device.type == "cpu" else SSD_CHUNK_GPU
    if chunk < 1:
        raise UsageError(f"{call}: chunk is {chunk}, expected at least 1")
    ends = packed.ends(batch, time, x.device) if return_document_states else None
    wanted = readout(call, states_at, return_state, time, ends)
    if packed.keep is not None:
        x, delta, B, C = (packed.silence(each) for each in (x, delta, B, C))
    arguments = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D, "initial_state": start}
    run = select("ssd", x, backend, empty=not (x.numel() and size))
    with full_precision(x):
        x_, delta_, A_, B_, C_, D_, start = floating(call, arguments)
        y, states = run(x_, delta_, A_, B_, C_, D_, chunk, start, packed.reset, wanted.positions)
    found = wanted.answer(packed.silence(y).to(x.dtype), states)
    return pooled(found, initial_state, state_rows, inplace) if return_state else found
