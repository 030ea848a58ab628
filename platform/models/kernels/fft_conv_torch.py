"""The long causal convolution by FFT in plain torch, on any device: O(T log T) per channel.

Promises: equal to the direct sum up to the rounding of an FFT (relative to the largest value of a row: 1e-7 in float32,
1e-16 in float64, times a small factor; see `fft_conv` for what that means for causality); documents are transformed one
by one, so that not even rounding crosses a reset; first derivatives only. A single token, the decode step, is a direct
sum over the history. Training keeps the spectrum of u, twice the size of u where T = L: transforming again in the
backward pass would take a third longer.

The hand-written backward is three transforms of real numbers; autograd's own derivative of `rfft` is a complex one of
the full length, and with it the backward pass took a quarter to a third longer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .registry import kernel


@cache
def fast_length(least: int) -> int:
    """The smallest length from `least` on that is a power of two times 1, 3, 5, 9 or 15; lengths with large prime
    factors are several times slower."""
    return min(odd << max(0, (-(-least // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))


class _FftConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u, taps, D, history):
        time = u.shape[1]
        # Transforms of contiguous rows are several times faster than transforms along the middle axis.
        rows = u.transpose(1, 2).contiguous() if history is None else torch.cat((history, u.transpose(1, 2)), 2)
        earlier = rows.shape[2] - time
        lags = min(taps.shape[1], rows.shape[2])
        # Long enough for what wraps around to reach only outputs before the first token asked for.
        length = fast_length(max(rows.shape[2], time + lags - 1))
        spectrum = torch.fft.rfft(rows, length)
        filter_spectrum = torch.fft.rfft(taps[:, :lags], length)
        found = torch.fft.irfft(spectrum * filter_spectrum, length)[..., earlier : earlier + time]
        y = found.transpose(1, 2).contiguous()
        if D is not None:
            y.addcmul_(u, D)
        ctx.save_for_backward(spectrum, filter_spectrum, None if D is None else u, D)
        ctx.sizes = (earlier, time, lags, length, taps.shape[1])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor):
        spectrum, filter_spectrum, u, D = ctx.saved_tensors
        earlier, time, lags, length, all_lags = ctx.sizes
        # Correlations instead of convolutions: the conjugate spectrum reverses time.
        rows = torch.nn.functional.pad(grad_y.transpose(1, 2), (earlier, 0))
        grad = torch.fft.rfft(rows.contiguous(), length)
        grad_rows = grad_taps = grad_D = None
        if ctx.needs_input_grad[1]:
            grad_taps = torch.fft.irfft((grad * spectrum.conj()).sum(0), length)[:, :lags]
            grad_taps = torch.nn.functional.pad(grad_taps, (0, all_lags - lags))
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[3]:
            grad_rows = torch.fft.irfft(grad * filter_spectrum.conj(), length)[..., : earlier + time]
        grad_u = None if grad_rows is None else grad_rows[..., earlier:].transpose(1, 2)
        if D is not None:
            grad_D = (grad_y * u).sum((0, 1))
            grad_u = None if grad_u is None else torch.addcmul(grad_u, grad_y, D)
        grad_history = grad_rows[..., :earlier] if grad_rows is not None and earlier else None
        return grad_u, grad_taps, grad_D, grad_history


def _one_token(u: Tensor, taps: Tensor, D: Tensor | None, history: Tensor | None) -> Tensor:
    """y (B,1,E): the history times the filter."""
    y = taps[:, 0] * u if D is None else (taps[:, 0] + D) * u
    if history is None:
        return y
    return y + (history * taps[:, 1 : history.shape[2] + 1].flip(1)).sum(2)[:, None]


def _by_document(u: Tensor, taps: Tensor, D: Tensor | None, history: Tensor | None, reset: Tensor) -> Tensor:
    """y (B,T,E), each document convolved by itself; those of similar length together, at most twice the tokens."""
    batch, time, channels = u.shape
    tokens = u if history is None else torch.cat((history.transpose(1, 2), u), 1)
    earlier = tokens.shape[1] - time
    starts = torch.nn.functional.pad(reset, (earlier, 0))
    starts[:, 0] = True
    tokens = tokens.reshape(-1, channels)
    begins = starts.flatten().nonzero().flatten()
    ends = torch.cat((begins[1:], begins.new_tensor([tokens.shape[0]])))
    classes: dict[int, list[int]] = {}
    for number, length in enumerate((ends - begins).tolist()):
        classes.setdefault((length - 1).bit_length(), []).append(number)
    y = torch.zeros_like(tokens)
    for numbers in classes.values():
        members = torch.tensor(numbers, device=u.device)
        first, last = begins[members, None], ends[members, None]
        place = first + torch.arange(int((last - first).max()), device=u.device)
        inside = place < last
        # Masked, not only cut off afterwards: what follows a document must not take part in its transform.
        piece = tokens[place.clamp(max=tokens.shape[0] - 1)].masked_fill(~inside[..., None], 0.0)
        y = y.index_copy(0, place[inside], _FftConv.apply(piece, taps, D, None)[inside])
    return y.view(batch, earlier + time, channels)[:, earlier:]


@kernel("fft_conv", "torch")
def fft_conv_torch(u: Tensor, taps: Tensor, D: Tensor | None, history: Tensor | None, reset: Tensor | None) -> Tensor:
    """y (B,T,E); arguments as in `fft_conv`, `taps` being its kernel."""
    if reset is not None and bool(reset.any()):
        return _by_document(u, taps, D, history, reset)
    if u.shape[1] == 1:
        return _one_token(u, taps, D, history)
    return _FftConv.apply(u, taps, D, history)
