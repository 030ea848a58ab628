"""The public long causal convolution of Hyena: arguments checked, backend chosen."""

from __future__ import annotations

from torch import Tensor

from ....core.errors import UsageError
from ..arguments import expect_rank, expect_shape, floating, full_precision
from ..backend import select
from ..packing import Together, packing


def fft_conv(
    u: Tensor,
    kernel: Tensor,
    D: Tensor | None = None,
    *,
    history: Tensor | None = None,
    reset: Tensor | None = None,
    seq_idx: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The causal convolution with a filter as long as the text (Poli et al., Hyena, arXiv 2302.10866, section 3).

        y_t = sum_{s<L} kernel[:, s] u_{t-s} + D u_t        (lag 0 weighs the current token)

    u (B,T,E); kernel (E,L), L shorter or longer than T; D (E) or None. history (B,E,S): the S inputs before the first,
    oldest first, any S (only the last L-1 matter), none if None; a text in pieces, each with the inputs before it as
    history, gives what the whole text gives. reset (B,T) bool: True where a new document starts, inputs before it, the
    history among them, do not reach outputs from it on. seq_idx: as in `selective_scan`; padding is not among the
    inputs that a lag counts back. Returns y (B,T,E).

    Exactly causal: y_t has the same bits whatever comes after it, and its gradient there is exactly zero. `torch` pays
    for that with blocks, `reference` with a loop; one FFT over the text would mix later inputs in by rounding. But one
    infinite or NaN input may spoil earlier outputs of its block with `torch` (0 * inf), never another document's.

    Raises UsageError for the reasons listed in `selective_scan`, and for a filter without lags.
    """
    call = "fft_conv"
    batch, time, channels = expect_rank(call, "u", u, "(batch, time, channels)")
    _, lags = expect_rank(call, "kernel", kernel, "(channels, lags)")
    expect_shape(call, "kernel", kernel, (channels, lags), "(channels, lags)")
    if lags < 1:
        raise UsageError(f"{call}: kernel has shape {tuple(kernel.shape)}, expected at least one lag")
    if D is not None:
        expect_shape(call, "D", D, (channels,), "(channels,)")
    if history is not None:
        earlier = history.shape[-1] if history.ndim == 3 else 0
        expect_shape(call, "history", history, (batch, channels, earlier), "(batch, channels, earlier inputs)")
    packed = packing(call, reset, seq_idx, batch, time)
    starts = packed.reset
    run = select("fft_conv", u, backend, empty=not u.numel())
    with full_precision(u):
        u_, kernel_, D_, past = floating(call, {"u": packed.silence(u), "kernel": kernel, "D": D, "history": history})
        assert u_ is not None
        if past is not None:
            past = past[..., max(0, past.shape[2] - (lags - 1)) :]
            past = past if past.shape[2] else None
        if packed.keep is None:
            return run(u_, kernel_, D_, past, starts).to(u.dtype)
        together = Together.of(packed.keep)
        assert starts is not None
        y = run(Together.move(u_, together.order), kernel_, D_, past, Together.move(starts, together.order))
        return packed.silence(Together.move(y, together.back)).to(u.dtype)
