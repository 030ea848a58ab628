"""Hyena's long convolution inside a model: its input, its output, and the record by which a text can be continued.

A convolution with L lags has no state of fixed size: decoding keeps the last L - 1 inputs (`past`), and a step is their
product with the filter, exact to rounding. Inputs further back are out of reach by definition, the text itself may be
of any length. Edits of an input act on the record as well, and so on all later tokens, as they do in a whole text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...access.run import Run
from ...kernels import fft_conv
from ...parts.past import extend, tokens_seen


def convolve_long(
    run: Run, prefix: str, suffix: str, u: Tensor, kernel: Tensor, skip: Tensor, history: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sites `long_conv_in` and `long_conv_out` around kernel * u + skip u; u (B, T, d), kernel (d, L), skip (d).

    history (B, d, S): the inputs before this call. Returns the edited input, which the record must hold, and output.
    """
    u = run.site(f"{prefix}long_conv_in{suffix}", u)
    y = fft_conv(u, kernel, skip, history=history, reset=run.reset)
    return u, run.site(f"{prefix}long_conv_out{suffix}", y)


def extend_record(run: Run, past: Tensor, seen: Tensor, inputs: list[Tensor], lags: int) -> tuple[Tensor, Tensor]:
    """The record (B, E, S) and `seen` (B) after this call, whose `inputs` (B, T, d) stand for the E channels."""
    after = tokens_seen(run, seen)
    return extend(run, past, torch.cat(inputs, -1), after, lags - 1), after
