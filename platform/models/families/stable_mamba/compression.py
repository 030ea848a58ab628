"""The two compressions of Stable-Mamba: a factor predicted from the text so far, and a bounded gain on the output.

    c_t = c_min + (1 - c_min) sigmoid(s_t)                       in [c_min, 1]
    m_t = b m_{t-1} + (1 - b) u_t                                the running mean that the predictor of s_t sees
    gain(y) = 2 sigmoid(kappa (theta - rms(y)))                  in (0, 2); loud outputs are turned down

All three are causal: the mean is over the tokens up to t, never over the whole sequence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...kernels import ssd
from ...parts.norms import wide


def compression_factor(scores: Tensor, c_min: float) -> Tensor:
    """c_t of the predictor's scores s_t, any shape: c_min where they go to minus infinity, 1 at plus infinity."""
    return c_min + (1.0 - c_min) * torch.sigmoid(scores)


def running_mean(
    u: Tensor, decay: float, start: Tensor | None, reset: Tensor | None, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """m_t (B, T, d) of u (B, T, d), and the mean (B, d) after the last token, in float32 or wider.

    start (B, d): the mean before the first token, zero if None. reset (B, T): True where it starts anew at zero.
    keep (B, T): False at padding, which leaves it as it is. Computed as a state-space dual of one head and one state.
    """
    rows, width, _ = u.shape
    dtype = wide(u.dtype)
    step = -math.log(decay)
    delta = torch.full((rows, width, 1), step, dtype=dtype, device=u.device)
    if keep is not None:
        delta = delta * keep[..., None]
    ones = torch.ones(rows, width, 1, 1, dtype=dtype, device=u.device)
    found = ssd(
        (u * ((1.0 - decay) / step))[:, :, None],
        delta,
        -torch.ones(1, dtype=dtype, device=u.device),
        ones,
        ones,
        initial_state=None if start is None else start[:, None, :, None],
        reset=reset,
        return_state=True,
    )
    return found[0][:, :, 0], found[1][:, 0, :, 0]


def bounded_gain(y: Tensor, kappa: Tensor, theta: Tensor) -> Tensor:
    """2 sigmoid(kappa (theta - rms(y))) (B, T, 1) of y (B, T, E): 1 where the root mean square of y is theta.

    Above 1 for quieter tokens, towards 0 for louder ones if kappa > 0. In float32 or wider.
    """
    rms = y.to(wide(y.dtype)).square().mean(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny).sqrt()
    return 2.0 * torch.sigmoid(kappa.to(rms.dtype) * (theta.to(rms.dtype) - rms))
