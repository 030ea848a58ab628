"""The long causal convolution as a direct sum: the oracle that the other backends are tested against.

y_t = sum_{s<L} k_s u_{t-s} + D u_t (Poli et al., "Hyena Hierarchy", arXiv 2302.10866, section 3). Promises: the
definition as it is written, one token at a time, differentiable by ordinary autograd in any floating dtype; nothing of
a later token or another document is ever read. It is slow: T L products per channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backend import example, kernel, normal, starts


@kernel("fft_conv", "reference")
def fft_conv_reference(
    u: Tensor, taps: Tensor, D: Tensor | None, history: Tensor | None, reset: Tensor | None
) -> Tensor:
    """y (B,T,E); arguments as in `fft_conv`, `taps` being its kernel."""
    time, lags = u.shape[1], taps.shape[1]
    inputs = u if history is None else torch.cat((history.transpose(1, 2), u), 1)
    earlier = inputs.shape[1] - time
    by_lag = taps.t()
    document = None if reset is None else torch.nn.functional.pad(reset.cumsum(1), (earlier, 0))
    outputs: list[Tensor] = []
    for t in range(earlier, earlier + time):
        reach = slice(max(0, t + 1 - lags), t + 1)
        seen = inputs[:, reach]
        if document is not None:
            # where, not a product: 0 * inf would carry the old document's overflow into the new one.
            same = document[:, reach] == document[:, t : t + 1]
            seen = torch.where(same[..., None], seen, torch.zeros_like(seen))
        y = (seen.flip(1) * by_lag[: seen.shape[1]]).sum(1)
        outputs.append(y if D is None else y + D * inputs[:, t])
    return torch.stack(outputs, 1)


@example("fft_conv")
def fft_conv_example(generator: torch.Generator) -> tuple[Any, ...]:
    """Three channels, 50 taps, and the 20 inputs before."""
    u, taps, D = normal(generator, 2, 70, 3), normal(generator, 3, 50), normal(generator, 3)
    return u, taps, D, normal(generator, 2, 3, 20), starts(generator)
