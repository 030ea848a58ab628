"""The loops of the numba convolution, forward and backward, over a range of tasks, one task being a sequence.

All arrays are flat and C-ordered; `width` is the number of channels padded to whole vectors, `lanes` the channels of a
vector; weight (K,width) has the oldest tap first. Promises: a task writes only places of its own, so any split of the
tasks over threads gives the same bits; an input of an earlier document is never read. Importing this imports numba.
"""

from __future__ import annotations

from ....core.compiled_loops import compiled
from ..compiled.simd import add, fma, load, mul, store

# numba caches by this file alone; naming the bytes of the vector operations here renews its cache when they change.
VECTOR_SOURCES = "d2989ee4d9b282ae"


@compiled
def convolve(first, last, shape, u, past, weight, bias, reset, y):
    """u, y (B,T,width); past (B,K-1,width), oldest first; bias (width); reset (B,T) or empty."""
    time, width, taps, lanes = shape
    for b in range(first, last):
        reach = taps - 1
        for t in range(time):
            # How many tokens back the document goes.
            reach = 0 if reset.size > 0 and reset[b * time + t] else min(reach + 1, taps - 1)
            row = (b * time + t) * width
            old = (b * (taps - 1) + t) * width  # of the input that is K - 1 tokens back, where that lies before u
            inside = min(reach, t)
            for c in range(0, width, lanes):
                found = fma(load(u, row + c), load(weight, (taps - 1) * width + c), load(bias, c))
                for back in range(1, inside + 1):
                    tap = (taps - 1 - back) * width + c
                    found = fma(load(u, row - back * width + c), load(weight, tap), found)
                for back in range(inside + 1, reach + 1):
                    tap = (taps - 1 - back) * width + c
                    found = fma(load(past, old + tap), load(weight, tap), found)
                store(y, row + c, found)


@compiled
def convolve_gradients(
    first, last, shape, u, past, weight, reset, grad_y, grad_u, grad_past, grad_weight, grad_bias
):  # fmt: skip
    """As in `convolve`; grad_weight (B,K,width) and grad_bias (B,width) are one sum per sequence.

    grad_past, grad_weight and grad_bias must come in as zeros.
    """
    time, width, taps, lanes = shape
    for b in range(first, last):
        reach = taps - 1
        weights = b * taps * width
        for t in range(time):
            reach = 0 if reset.size > 0 and reset[b * time + t] else min(reach + 1, taps - 1)
            row = (b * time + t) * width
            old = (b * (taps - 1) + t) * width
            inside = min(reach, t)
            for c in range(0, width, lanes):
                grad = load(grad_y, row + c)
                store(grad_bias, b * width + c, add(grad, load(grad_bias, b * width + c)))
                # The first gradient to reach an input is the one of its own token.
                store(grad_u, row + c, mul(grad, load(weight, (taps - 1) * width + c)))
                tap = (taps - 1) * width + c
                store(grad_weight, weights + tap, fma(grad, load(u, row + c), load(grad_weight, weights + tap)))
                for back in range(1, inside + 1):
                    tap = (taps - 1 - back) * width + c
                    at = row - back * width + c
                    store(grad_u, at, fma(grad, load(weight, tap), load(grad_u, at)))
                    store(grad_weight, weights + tap, fma(grad, load(u, at), load(grad_weight, weights + tap)))
                for back in range(inside + 1, reach + 1):
                    tap = (taps - 1 - back) * width + c
                    store(grad_past, old + tap, fma(grad, load(weight, tap), load(grad_past, old + tap)))
                    store(
                        grad_weight, weights + tap, fma(grad, load(past, old + tap), load(grad_weight, weights + tap))
                    )
