"""The public selective scan of Mamba: arguments checked, backend chosen, answers in the order asked for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..arguments import expect_rank, expect_shape, floating, full_precision, readout
from ..backend import select
from ..packing import packing
from ..state_pool import pooled, starting_state
from .scan_forms import any_form, expect_forms, readouts


def selective_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
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
    """The selective scan of Mamba (Gu and Dao, arXiv 2312.00752, section 3.2; Euler write, as in its reference
    implementation).

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t        y_t = C_t . h_t + D x_t

    x, delta (B,T,E), delta after the softplus; A (E,N), negative; B, C (B,T,N); D (E) or None. initial_state (B,E,N): h
    before the first step, zero if None. reset (B,T) bool: True where a new document starts, h is zeroed before that
    step. states_at: time indices (list or 1-D integer tensor, the same for all rows) at which h is also returned, after
    the step's update. Returns y (B,T,E), or a tuple (y[, state (B,E,N)][, states (B, len(states_at), E, N)][, states
    of documents (documents, E, N)]) of what was asked for.

    B, C (B,T,G,N): groups, each shared by E/G consecutive channels. B or C (E,N): constant in time, one for every
    channel. (`scan_forms` says what these cost.)

    Packed documents and padding: seq_idx (B,T), the number of every token's document, -1 at padding, instead of reset
    (`packing`). return_document_states: the state after the last token of every document, row by row in the order of
    the text. A pool of states: initial_state (S,E,N) with state_rows (B), the row of each sequence, -1 for none;
    return_state then gives the pool with the new states in those rows, in its own memory if `inplace` (`state_pool`).

    Several read-outs of one state: with C (B,T,R,N), or (B,T,R,G,N) where B has groups, y is (B,T,R,E), y_t^r =
    C_t^r . h_t, from one pass that keeps no states; D x_t is added to read-out 0 alone, the layer's own (the others
    serve other layers, which have skips of their own).

    Raises UsageError for shapes, dtypes or devices that do not fit together, an empty sequence, an index outside of the
    sequence or the pool, two sequences that would leave their states in one row, no read-out, and a backend that does
    not exist or is not installed.
    """
    call = "selective_scan"
    batch, time, channels = expect_rank(call, "x", x, "(batch, time, channels)")
    _, size = expect_rank(call, "A", A, "(channels, states)")
    expect_shape(call, "delta", delta, (batch, time, channels), "(batch, time, channels)")
    expect_shape(call, "A", A, (channels, size), "(channels, states)")
    expect_forms(call, B, C, (batch, time, channels, size))
    if D is not None:
        expect_shape(call, "D", D, (channels,), "(channels,)")
    start = starting_state(
        call, initial_state, state_rows, (batch, channels, size), "channels, states", written=return_state,
        inplace=inplace,
    )  # fmt: skip
    packed = packing(call, reset, seq_idx, batch, time)
    ends = packed.ends(batch, time, x.device) if return_document_states else None
    wanted = readout(call, states_at, return_state, time, ends)
    kind, reads = x.dtype, readouts(B, C)
    if packed.keep is not None:
        # What is constant in time has no padding.
        x, delta, B, C = (each if each.ndim == 2 else packed.silence(each) for each in (x, delta, B, C))
    arguments = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D, "initial_state": start}
    run = select("scan", x, backend, empty=not (x.numel() and A.numel()))
    with full_precision(x):
        y, states = any_form(run, B, C)(*floating(call, arguments), packed.reset, wanted.positions)
    assert y.ndim == (3 if reads is None else 4), f"the backend returned {tuple(y.shape)}"
    found = wanted.answer(packed.silence(y).to(kind), states)
    return pooled(found, initial_state, state_rows, inplace) if return_state else found
