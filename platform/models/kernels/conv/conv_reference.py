"""The causal depthwise convolution, tap by tap: the oracle that the other backends are tested against.

c_t = b + sum_i w[:, i] u_{t-K+1+i}, the last tap weighing the current token. Promises: the definition as it is written,
one token and one tap at a time, differentiable by ordinary autograd in any floating dtype. It is slow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backend import example, kernel, normal, starts


@kernel("conv", "reference")
def conv_reference(
    u: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, reset: Tensor | None
) -> Tensor:
    """y (B,T,E); arguments as in `causal_conv`."""
    batch, time, channels = u.shape
    window = weight.shape[1] - 1
    past = u.new_zeros(batch, window, channels) if initial_state is None else initial_state.transpose(1, 2)
    inputs = [past[:, i] for i in range(window)]
    outputs: list[Tensor] = []
    for t in range(time):
        if reset is not None:
            inputs = [torch.where(reset[:, t, None], torch.zeros_like(old), old) for old in inputs]
        inputs.append(u[:, t])
        y = sum((weight[:, i] * inputs[i] for i in range(window + 1)), torch.zeros_like(u[:, t]))
        outputs.append(y if bias is None else y + bias)
        inputs = inputs[1:]
    return torch.stack(outputs, 1)


@example("conv")
def conv_example(generator: torch.Generator) -> tuple[Any, ...]:
    """Five channels, four taps."""
    u, weight, bias = normal(generator, 2, 70, 5), normal(generator, 5, 4), normal(generator, 5)
    return u, weight, bias, normal(generator, 2, 5, 3), starts(generator)
