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

from .conv_call import causal_conv
from .registry import backends, kernel, operations, resolve
from .scan_call import selective_scan
from .ssd_call import ssd

__all__ = ["backends", "causal_conv", "kernel", "operations", "resolve", "selective_scan", "ssd"]
