"""The loops of one decode step on the CPU: the recurrences and the convolution for a single token of each sequence.

A task is a sequence. All arrays are flat and C-ordered; the states are those that a model carries, (B,E,N), (B,H,P,N)
and (B,E,K-1), so nothing is rearranged between two tokens. Vectors run over the N states of a channel, which must be
whole vectors. The new state is written beside the old one, because a caller may fork from the old one.
"""

from __future__ import annotations

import numpy as np

from ....core.compiled_loops import compiled
from ..compiled.simd import exp, fma, load, mul, splat, store, total, zero

# numba caches by this file alone; naming the bytes of the vector operations here renews its cache when they change.
VECTOR_SOURCES = "d2989ee4d9b282ae"


@compiled
def scan_step(first, last, shape, x, delta, A, B, C, D, state, y, after):
    """h' = exp(delta A) h + delta x B, y = C . h' + D x; x, delta, y (B,E); A (E,N); B, C (B,N); D (E) or empty."""
    channels, states, lanes = shape
    none = zero(x)
    for b in range(first, last):
        for e in range(channels):
            at = b * channels + e
            delta_e = splat(delta, at)
            written = mul(delta_e, splat(x, at))
            read = none
            for n in range(0, states, lanes):
                decay = exp(mul(delta_e, load(A, e * states + n)))
                h = fma(decay, load(state, at * states + n), mul(written, load(B, b * states + n)))
                store(after, at * states + n, h)
                read = fma(h, load(C, b * states + n), read)
            y[at] = total(read) + (D[e] * x[at] if D.size > 0 else 0.0)


@compiled
def ssd_step(first, last, shape, written, decay, B, C, y, after, state):
    """S' = decay S + written (outer) B, y += S' C; written, y (B,H,P); decay (B,H); B, C (B,G,N); state (B,H,P,N)."""
    heads, width, groups, states, lanes = shape
    none = zero(written)
    for b in range(first, last):
        for head in range(heads):
            key = (b * groups + head // (heads // groups)) * states
            factor = splat(decay, b * heads + head)
            for p in range(width):
                at = (b * heads + head) * width + p
                value = splat(written, at)
                read = none
                for n in range(0, states, lanes):
                    s = fma(factor, load(state, at * states + n), mul(value, load(B, key + n)))
                    store(after, at * states + n, s)
                    read = fma(s, load(C, key + n), read)
                y[at] += total(read)


@compiled
def conv_step(first, last, shape, u, weight, bias, past, y, after):
    """y = bias + taps of (past, u); u, y (B,E); weight (E,K); bias (E) or empty; past and the next window, after
    (B,E,K-1), oldest first."""
    channels, taps = shape
    window = taps - 1
    for b in range(first, last):
        for e in range(channels):
            y[b * channels + e] = bias[e] if bias.size > 0 else 0.0
        if taps == 4:  # every published Mamba; written out it takes a third of the time of the loop below
            for e in range(channels):
                at, w, i = b * channels + e, e * 4, (b * channels + e) * 3
                middle, latest, now = past[i + 1], past[i + 2], u[at]
                y[at] += weight[w + 3] * now + (weight[w] * past[i] + weight[w + 1] * middle + weight[w + 2] * latest)
                after[i] = middle
                after[i + 1] = latest
                after[i + 2] = now
            continue
        for e in range(channels):
            at = b * channels + e
            found = weight[e * taps + window] * u[at]
            for i in range(window):
                found += weight[e * taps + i] * past[at * window + i]
                after[at * window + i] = past[at * window + i + 1] if i + 1 < window else u[at]
            y[at] += found


@compiled
def norm_step(first, last, shape, x, weight, y, eps):
    """y = weight x / sqrt(mean(x^2) + eps), the mean over each of `groups` parts of a row; x, y (B,d); weight (d)."""
    width, groups, lanes = shape
    part = width // groups
    scale = np.empty(1, x.dtype)
    for task in range(first * groups, last * groups):
        column = (task % groups) * part
        squares = zero(x)
        for i in range(0, part, lanes):
            here = load(x, task * part + i)
            squares = fma(here, here, squares)
        scale[0] = 1.0 / np.sqrt(total(squares) / part + eps)
        factor = splat(scale, 0)
        for i in range(0, part, lanes):
            store(y, task * part + i, mul(mul(load(x, task * part + i), factor), load(weight, column + i)))
