"""The long causal convolution in plain torch, on any device: exactly causal, O(T sqrt(T)) per channel.

One FFT over a whole text is causal up to rounding only: every output is a sum over all frequencies, so that some 1e-7
(1e-16 in float64) of later inputs reaches earlier outputs. Here the text is cut into blocks. Inside a block the sum is
direct, a product with a lower triangular Toeplitz matrix, whose zeros are exact; what earlier blocks add comes by FFT
of each block by itself, so that it holds nothing of the block it is added to, nor of any later one. This is the
partitioned convolution without delay of real-time audio (Gardner 1995, with blocks of one length).

Promises: no later input changes any bit of an output, no gradient reaches one, exactly; equal to the direct sum up to
the rounding of an FFT; documents are convolved one by one; first derivatives only. A single token, the decode step, is
a direct sum over the history. The gradient of u is the same convolution with time reversed, that of the filter, in
which no direction of time is at stake, three plain transforms.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backend import kernel

# Up to this many entries per channel one product with the whole Toeplitz matrix is faster than blocks.
DIRECT_ENTRIES = 4096


@cache
def fast_length(least: int) -> int:
    """The smallest length from `least` on that is a power of two times 1, 3, 5, 9 or 15; lengths with large prime
    factors are several times slower."""
    return min(odd << max(0, (-(-least // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))


def block_length(tokens: int) -> int:
    """The tokens of a block: a power of two near 2 sqrt(tokens), at least 64. The direct part of the work grows with
    it, the part by FFT shrinks."""
    return max(64, 1 << ((4 * tokens).bit_length() - 1) // 2)


def toeplitz(taps: Tensor, height: int, width: int) -> Tensor:
    """(E, height, width) with taps[:, lag] where row t is `lag` tokens after column j, the last row and column being
    the same token; exact zeros where j is later or the filter has no such lag."""
    taps = F.pad(taps[:, :width], (height - 1, max(0, width - taps.shape[1])))
    return taps.flip(-1).unfold(-1, width, 1).flip(1)


def causal_product(rows: Tensor, taps: Tensor, skip: int) -> Tensor:
    """The convolution of rows (E,B,S+T) with taps (E,L) at the last T tokens, S being `skip`: (E,B,T)."""
    total = rows.shape[2]
    time = total - skip
    if time * total <= DIRECT_ENTRIES:
        return rows @ toeplitz(taps, time, total).mT
    size = block_length(total)
    before, after = -(-skip // size), -(-time // size)  # blocks
    rows = F.pad(rows, (before * size - skip, after * size - time))
    blocks = rows.unflatten(2, (before + after, size))
    y = (blocks[:, :, before:].flatten(1, 2) @ toeplitz(taps, size, size).mT).unflatten(1, (-1, after))
    lags = min(taps.shape[1], total)
    reach = min(before + after - 1, -(-(lags - 1) // size))  # how many blocks back the filter sees
    if reach:
        y = y + _earlier_blocks(blocks, taps[:, :lags], before, reach)
    return y.flatten(2)[..., :time]


def _earlier_blocks(blocks: Tensor, taps: Tensor, before: int, reach: int) -> Tensor:
    """What the 1 to `reach` blocks before each block add to it. blocks (E,B,blocks,P) -> (E,B,blocks - before,P).

    Token t of a block meets token s of the k-th block before it at lag kP + t - s. A transform of 2P taps from lag
    (k-1)P on times one of the P tokens and P zeros holds these sums in its second half, untouched by wrapping around.
    """
    count, size = blocks.shape[2:]
    taps = F.pad(taps, (0, max(0, (reach + 1) * size - taps.shape[1])))
    filters = torch.fft.rfft(taps[:, : (reach + 1) * size].unfold(-1, 2 * size, size))  # (E, reach, P+1)
    spectra = torch.fft.rfft(blocks[:, :, : count - 1], 2 * size)
    sums = spectra.new_zeros(*spectra.shape[:2], count - before, size + 1)
    for k in range(1, reach + 1):
        first = max(k, before)
        sums[:, :, first - before :].addcmul_(spectra[:, :, first - k : count - k], filters[:, None, k - 1 : k])
    return torch.fft.irfft(sums, 2 * size)[..., size:]


class _LongConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u, taps, D, history):
        rows = u.permute(2, 0, 1)
        if history is not None:
            rows = torch.cat((history.transpose(0, 1), rows), 2)
        rows = rows.contiguous()
        y = causal_product(rows, taps, rows.shape[2] - u.shape[1]).permute(1, 2, 0).contiguous()
        if D is not None:
            y.addcmul_(u, D)
        ctx.save_for_backward(rows, taps, None if D is None else u, D)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor):
        rows, taps, u, D = ctx.saved_tensors
        earlier = rows.shape[2] - grad_y.shape[1]
        grad = grad_y.permute(2, 0, 1).contiguous()
        grad_u = grad_taps = grad_D = grad_history = None
        if ctx.needs_input_grad[1]:
            grad_taps = _correlation(rows, grad, taps.shape[1])
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[3]:
            later = F.pad(grad.flip(2), (0, earlier)) if ctx.needs_input_grad[3] else grad.flip(2)
            grad_rows = causal_product(later, taps, 0).flip(2)
            grad_u = grad_rows[..., grad_rows.shape[2] - grad.shape[2] :].permute(1, 2, 0)
            if ctx.needs_input_grad[3]:
                grad_history = grad_rows[..., :earlier].transpose(0, 1)
        if D is not None:
            grad_D = (grad_y * u).sum((0, 1))
            grad_u = None if grad_u is None else torch.addcmul(grad_u, grad_y, D)
        return grad_u, grad_taps, grad_D, grad_history


def _correlation(rows: Tensor, grad: Tensor, all_lags: int) -> Tensor:
    """The gradient of the taps (E, all_lags): sum over rows and tokens of grad_t rows_{t - lag}."""
    total, time = rows.shape[2], grad.shape[2]
    lags = min(all_lags, total)
    # Long enough for what wraps around to reach only lags that are not asked for.
    length = fast_length(max(total, time + lags - 1))
    spectrum = torch.fft.rfft(F.pad(grad, (total - time, 0)), length)
    found = torch.fft.irfft((spectrum * torch.fft.rfft(rows, length).conj()).sum(1), length)
    return F.pad(found[:, :lags], (0, all_lags - lags))


def _one_token(u: Tensor, taps: Tensor, D: Tensor | None, history: Tensor | None) -> Tensor:
    """y (B,1,E): the history times the filter."""
    y = taps[:, 0] * u if D is None else (taps[:, 0] + D) * u
    if history is None:
        return y
    weights = taps[:, 1 : history.shape[2] + 1].flip(1)
    return y + torch.bmm(history.transpose(0, 1), weights[..., None]).squeeze(2).t()[:, None]


def _by_document(u: Tensor, taps: Tensor, D: Tensor | None, history: Tensor | None, reset: Tensor) -> Tensor:
    """y (B,T,E), each document convolved by itself; those of similar length together, at most twice the tokens."""
    batch, time, channels = u.shape
    tokens = u if history is None else torch.cat((history.transpose(1, 2), u), 1)
    earlier = tokens.shape[1] - time
    starts = F.pad(reset, (earlier, 0))
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
        y = y.index_copy(0, place[inside], _LongConv.apply(piece, taps, D, None)[inside])
    return y.view(batch, earlier + time, channels)[:, earlier:]


@kernel("fft_conv", "torch")
def fft_conv_torch(u: Tensor, taps: Tensor, D: Tensor | None, history: Tensor | None, reset: Tensor | None) -> Tensor:
    """y (B,T,E); arguments as in `fft_conv`, `taps` being its kernel."""
    if reset is not None and bool(reset.any()):
        return _by_document(u, taps, D, history, reset)
    if u.shape[1] == 1:
        return _one_token(u, taps, D, history)
    return _LongConv.apply(u, taps, D, history)
