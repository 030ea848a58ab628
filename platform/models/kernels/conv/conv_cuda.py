"""The causal depthwise convolution of the package causal_conv1d, on an NVIDIA GPU: a wrapper that transposes.

Promises: the arguments as `causal_conv1d_fn` documents them (x (B,E,T); weight (E,K); bias (E); initial_states
(B,E,K-1); seq_idx (B,T), the number of a token's document), with time strided and channels next to each other, the one
layout in which it takes earlier inputs and documents, and which needs no copy here. What it cannot do is refused:
float64, other than 2 to 4 taps, a number of channels that 8 does not divide, resets together with earlier inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import kernel, limits
from ..scan.scan_cuda import upstream

TAPS = (2, 3, 4)
CHANNELS_MULTIPLE = 8


@limits("conv", "cuda")
def missing(
    u: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reset: Tensor | None
) -> str | None:
    """The feature of this call that causal_conv1d lacks, or None."""
    if u.dtype == torch.float64:
        return "float64"
    if weight.shape[1] not in TAPS:
        return f"{weight.shape[1]} taps"
    if u.shape[2] % CHANNELS_MULTIPLE:
        return f"{u.shape[2]} channels, which {CHANNELS_MULTIPLE} does not divide"
    if reset is not None and initial_state is not None:
        return "resets together with an initial state"
    return None


@kernel("conv", "cuda")
def conv_cuda(
    u: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reset: Tensor | None
) -> Tensor:
    """y (B,T,E); arguments as in `causal_conv`, without those that `missing` names."""
    run = upstream("causal_conv1d", "causal_conv1d_fn", "conv")
    assert missing(u, weight, bias, initial_state, reset) is None
    past = None if initial_state is None else initial_state.transpose(1, 2).contiguous().transpose(1, 2)
    documents = None if reset is None else reset.cumsum(1, dtype=torch.int32)
    y = run(u.contiguous().transpose(1, 2), weight.contiguous(), bias, seq_idx=documents, initial_states=past)
    return y.transpose(1, 2)
