"""The sequence kernels of the models: selective scan (Mamba), SSD (Mamba-2) and the causal depthwise convolution.

Each is a pure function of tensors with several backends (see `registry`): `reference`, the definition token by token;
`torch`, fast and always there; `numba`, compiled on first use, the default on a CPU where numba is installed. All take
and return the recurrent state, take a reset mask for packed documents, and are differentiable in every floating
argument.

Shapes: B batch, T time, E channels, N states per channel, H heads, P head width, G groups, K taps. Promises: float64
in, float64 throughout; any other floating type is computed in float32 and y returned in the type of x, states in
float32, autocast or not; asking for states does not change one bit of y; the numba backends give the same
bits for every number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ...errors import UsageError
from .arguments import expect_rank, expect_reset, expect_shape, floating, readout
from .registry import backends, kernel, operations, resolve, select

__all__ = ["backends", "causal_conv", "kernel", "operations", "resolve", "selective_scan", "ssd"]

# Measured on two cores: smaller chunks spend their time in the recurrence between them, larger ones in the pairs.
SSD_CHUNK_CPU = 32
SSD_CHUNK_GPU = 128


def _full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Autocast off: it would run the matrix products inside a kernel in bfloat16."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


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

    Raises UsageError for shapes, dtypes or devices that do not fit together, an empty sequence, an index outside of the
    sequence, and a backend that does not exist or is not installed.
    """
    call = "selective_scan"
    batch, time, channels = expect_rank(call, "x", x, "(batch, time, channels)")
    _, size = expect_rank(call, "A", A, "(channels, states)")
    expect_shape(call, "delta", delta, (batch, time, channels), "(batch, time, channels)")
    expect_shape(call, "A", A, (channels, size), "(channels, states)")
    expect_shape(call, "B", B, (batch, time, size), "(batch, time, states)")
    expect_shape(call, "C", C, (batch, time, size), "(batch, time, states)")
    if D is not None:
        expect_shape(call, "D", D, (channels,), "(channels,)")
    if initial_state is not None:
        expect_shape(call, "initial_state", initial_state, (batch, channels, size), "(batch, channels, states)")
    expect_reset(call, reset, batch, time)
    wanted = readout(call, states_at, return_state, time)
    arguments = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D, "initial_state": initial_state}
    run = select("scan", x, backend)
    with _full_precision(x):
        y, states = run(*floating(call, arguments), reset, wanted.positions)
    return wanted.answer(y.to(x.dtype), states)


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
    reset: Tensor | None = None,
    return_state: bool = False,
    states_at: Tensor | Sequence[int] | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, ...]:
    """The state-space dual form of Mamba-2 (Dao and Gu, arXiv 2405.21060, section 6): a scalar decay per head.

        S_t = exp(delta_t A) S_{t-1} + delta_t x_t (outer) B_t        y_t = S_t C_t + D x_t

    x (B,T,H,P); delta (B,T,H), after the softplus; A (H), negative; B, C (B,T,G,N), each group shared by H/G
    consecutive heads; D (H) or None. chunk: steps handled as one matrix, 32 on a CPU if None; it changes speed and
    rounding only. initial_state (B,H,P,N). reset, states_at: as in `selective_scan`. Returns y (B,T,H,P), or a tuple
    (y[, state (B,H,P,N)][, states (B, len(states_at), H,P,N)]).

    Raises UsageError for the reasons listed in `selective_scan`, for heads that do not divide into the groups, and for
    chunk < 1.
    """
    call = "ssd"
    batch, time, heads, width = expect_rank(call, "x", x, "(batch, time, heads, head width)")
    _, _, groups, size = expect_rank(call, "B", B, "(batch, time, groups, states)")
    expect_shape(call, "delta", delta, (batch, time, heads), "(batch, time, heads)")
    expect_shape(call, "A", A, (heads,), "(heads,)")
    expect_shape(call, "B", B, (batch, time, groups, size), "(batch, time, groups, states)")
    expect_shape(call, "C", C, (batch, time, groups, size), "(batch, time, groups, states)")
    if groups < 1 or heads % groups:
        raise UsageError(f"{call}: x has {heads} heads, which do not divide into the {groups} groups of B")
    if D is not None:
        expect_shape(call, "D", D, (heads,), "(heads,)")
    if initial_state is not None:
        expect_shape(
            call, "initial_state", initial_state, (batch, heads, width, size), "(batch, heads, head width, states)"
        )
    expect_reset(call, reset, batch, time)
    if chunk is None:
        chunk = SSD_CHUNK_CPU if x.device.type == "cpu" else SSD_CHUNK_GPU
    if chunk < 1:
        raise UsageError(f"{call}: chunk is {chunk}, expected at least 1")
    wanted = readout(call, states_at, return_state, time)
    arguments = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D}
    run = select("ssd", x, backend)
    with _full_precision(x):
        x_, delta_, A_, B_, C_, D_, start = floating(call, {**arguments, "initial_state": initial_state})
        y, states = run(x_, delta_, A_, B_, C_, D_, chunk, start, reset, wanted.positions)
    return wanted.answer(y.to(x.dtype), states)


def causal_conv(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The causal depthwise convolution in front of the scan, without an activation.

        y_t = bias + sum_{i<K} weight[:, i] u_{t-K+1+i}        (the last tap weighs the current token)

    u (B,T,E); weight (E,K); bias (E) or None. initial_state (B,E,K-1): the K-1 inputs before the first, oldest first,
    zero if None. reset (B,T) bool: True where a new document starts, inputs before it do not reach outputs from it on.
    Returns y (B,T,E), or (y, state (B,E,K-1)) with the last K-1 inputs, zero where they lie before the last document
    start.

    Raises UsageError for the reasons listed in `selective_scan`.
    """
    call = "causal_conv"
    batch, time, channels = expect_rank(call, "u", u, "(batch, time, channels)")
    _, taps = expect_rank(call, "weight", weight, "(channels, taps)")
    expect_shape(call, "weight", weight, (channels, taps), "(channels, taps)")
    if taps < 1:
        raise UsageError(f"{call}: weight has shape {tuple(weight.shape)}, expected at least one tap")
    if bias is not None:
        expect_shape(call, "bias", bias, (channels,), "(channels,)")
    if initial_state is not None:
        expect_shape(call, "initial_state", initial_state, (batch, channels, taps - 1), "(batch, channels, taps - 1)")
    expect_reset(call, reset, batch, time)
    run = select("conv", u, backend)
    with _full_precision(u):
        u_, weight_, bias_, past = floating(
            call, {"u": u, "weight": weight, "bias": bias, "initial_state": initial_state}
        )
        assert u_ is not None
        y = run(u_, weight_, bias_, past, reset).to(u.dtype)
        return (y, _conv_state(u_, past, reset, taps - 1)) if return_state else y


def _conv_state(u: Tensor, past: Tensor | None, reset: Tensor | None, window: int) -> Tensor:
    """The last `window` inputs (B,E,window), oldest first, zero where they belong to an earlier document than the last
    input."""
    kept = u[:, max(0, u.shape[1] - window) :].transpose(1, 2)
    missing = window - kept.shape[2]
    if missing:
        before = kept.new_zeros(*kept.shape[:2], missing) if past is None else past[..., past.shape[2] - missing :]
        kept = torch.cat((before, kept), 2)
    if reset is not None:
        document = torch.nn.functional.pad(reset.cumsum(1), (window, 0))
        old = document[:, document.shape[1] - window :] != document[:, -1:]
        kept = kept.masked_fill(old[:, None, :], 0.0)
    return kept
