"""The sequence kernels of the models: selective scan (Mamba), SSD (Mamba-2), the causal depthwise convolution, and the
long convolution by FFT (Hyena).

Each is a pure function of tensors with several backends (see `registry`): `reference`, the definition token by token;
`torch`, fast and always there; `numba`, compiled on first use, the default on a CPU where it exists. All take
a reset mask for packed documents and what came before the first token (the recurrent state, which they also return, or
the inputs themselves for `fft_conv`), and are differentiable in every floating argument. The `..._step` functions are
one token of the same, for decoding. docs/kernels.md has the options side by side, and what is not offered.

Shapes: B batch, T time, E channels, N states per channel, R read-outs, H heads, P head width, G groups, K taps, L lags.
Promises: float64 in, float64 throughout; any other floating type is computed in float32 and y returned in the type of
x, states in float32, autocast or not; asking for states does not change one bit of y; the numba backends give the same
bits for every number of threads.
"""

from __future__ import annotations

from .backend import backends, kernel, operations, resolve
from .conv.conv_call import causal_conv
from .fft_conv.fft_conv_call import fft_conv
from .scan.scan_call import selective_scan
from .ssd.ssd_call import ssd
from .step.step_call import compiled_steps, conv_step, scan_step, ssd_step

__all__ = [
    "backends",
    "causal_conv",
    "compiled_steps",
    "conv_step",
    "fft_conv",
    "kernel",
    "operations",
    "resolve",
    "scan_step",
    "selective_scan",
    "ssd",
    "ssd_step",
]
