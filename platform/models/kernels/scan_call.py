"""The public selective scan of Mamba: arguments checked, backend chosen, answers in the order asked for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...errors import UsageError
from .arguments import expect_rank, expect_reset, expect_shape, floating, full_precision, readout
from .registry import select


def selective_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    return_state: bool = False,
    states_at: Tensor | Sequence[int] | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, ...]:
    """The selective scan of Mamba (Gu and Dao, arXiv 2312.00752, section 3.2; Euler write, as in its reference
    implementation).

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t        y_t = C_t . h_t + D x_t

    x, delta (B,T,E), delta after the softplus; A (E,N), negative; B, C (B,T,N); D (E) or None. initial_state (B,E,N): h
    before the first step, zero if None. reset (B,T) bool: True where a new document starts, h is zeroed before that
    step. states_at: time indices (list or 1-D integer tensor, the same for all rows) at which h is also returned, after
    the step's update. Returns y (B,T,E), or a tuple (y[, state (B,E,N)][, states (B, len(states_at), E, N)]) of what
    was asked for.

    Several read-outs of one state: with C (B,T,R,N), y is (B,T,R,E), y_t^r = C_t^r . h_t, from one pass that keeps no
    states; D x_t is added to read-out 0 alone, the layer's own (the others serve other layers, which have skips of
    their own).

    Raises UsageError for shapes, dtypes or devices that do not fit together, an empty sequence, an index outside of the
    sequence, no read-out, and a backend that does not exist or is not installed.
    """
    call = "selective_scan"
    batch, time, channels = expect_rank(call, "x", x, "(batch, time, channels)")
    _, size = expect_rank(call, "A", A, "(channels, states)")
    expect_shape(call, "delta", delta, (batch, time, channels), "(batch, time, channels)")
    expect_shape(call, "A", A, (channels, size), "(channels, states)")
    expect_shape(call, "B", B, (batch, time, size), "(batch, time, states)")
    if C.ndim == 4:
        expect_shape(call, "C", C, (batch, time, C.shape[2], size), "(batch, time, read-outs, states)")
        if C.shape[2] < 1:
            raise UsageError(f"{call}: C has shape {tuple(C.shape)}, expected at least one read-out")
    else:
        expect_shape(call, "C", C, (batch, time, size), "(batch, time, states)")
    if D is not None:
        expect_shape(call, "D", D, (channels,), "(channels,)")
    if initial_state is not None:
        expect_shape(call, "initial_state", initial_state, (batch, channels, size), "(batch, channels, states)")
    expect_reset(call, reset, batch, time)
    wanted = readout(call, states_at, return_state, time)
    arguments = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D, "initial_state": initial_state}
    run = select("scan", x, backend, empty=not (x.numel() and A.numel()))
    with full_precision(x):
        y, states = run(*floating(call, arguments), reset, wanted.positions)
    assert y.ndim == C.ndim, f"the backend for {tuple(C.shape)} read-outs returned {tuple(y.shape)}"
    return wanted.answer(y.to(x.dtype), states)
