"""Greedy decoding of a small Mamba in one compiled loop: from a token, through all layers, to the next token.

A model of a million parameters spends a decode step on the way between operations, not in them. Here the lanes of a
vector are sequences: a task is a group of `lanes` sequences, which stay in the caches of one core for all steps and
wait for nobody. Matrices are read as torch stores them, (outputs, inputs), the outputs padded to multiples of 16.

All arrays are flat and C-ordered. dims = (lanes, steps, layers, d, E, N, R, K, V). `at` (layers + 1, 11) holds where in
`weights` each layer's parts begin, in the order of `PARTS`; the last row holds where the final norm begins. Written out
the network is that of `mamba`; the two are compared in float64 by a test.
"""

from __future__ import annotations

import numpy as np

from ....core.compiled_loops import compiled
from .simd import add, exp, fma, load, mul, splat, store, zero
from .simd_lanes import add_products, div, number, root, silu, softplus, where_greater
from .simd_rows import store_rows, zero_rows

# numba caches by this file alone; naming the bytes of the vector operations here renews its cache when they change.
VECTOR_SOURCES = "81184856e1eb9b88"

#: (d), (2E,d), (E,K), (E), (R+2N,E), (E,R), (E), (E,N) negative, (E), (d,E)
PARTS = ("norm", "in_proj", "conv", "conv_bias", "x_proj", "dt_proj", "dt_bias", "A", "D", "out_proj")


@compiled
def normalise(weights, at, width, eps, lanes, x, y):
    """y = weight x / sqrt(mean(x^2) + eps) over `width`; x, y (width, lanes)."""
    squares = zero(x)
    for i in range(width):
        here = load(x, i * lanes)
        squares = fma(here, here, squares)
    scale = div(number(x, 1.0), root(fma(squares, number(x, 1.0 / width), number(x, eps))))
    for i in range(width):
        store(y, i * lanes, mul(splat(weights, at + i), mul(load(x, i * lanes), scale)))


@compiled
def project(weights, at, inputs, outputs, lanes, x, y):
    """y (outputs, lanes) = W x, W (outputs, inputs) at weights[at:], x (inputs, lanes); outputs a multiple of 16."""
    for j in range(0, outputs, 16):
        upper, lower = zero_rows(x), zero_rows(x)
        row = at + j * inputs
        for k in range(inputs):
            value = load(x, k * lanes)
            upper = add_products(upper, weights, row + k, inputs, value)
            lower = add_products(lower, weights, row + 8 * inputs + k, inputs, value)
        store_rows(y, j * lanes, lanes, upper)
        store_rows(y, (j + 8) * lanes, lanes, lower)


@compiled
def mix(weights, at, dims, u, wide, inner, low, conv, h, base):
    """The mixer of one layer up to out_proj: u (d, lanes) -> inner (E, lanes); wide (2E, lanes) and low (R+2N, lanes)
    are working memory; conv (E, K-1, lanes) and h (E, N, lanes) begin at `base` and become the next state."""
    lanes, _, _, d, E, N, R, K, _ = dims
    conv_base, h_base = base
    project(weights, at[1], d, 2 * E, lanes, u, wide)
    for e in range(E):
        found = splat(weights, at[3] + e)
        past = conv_base + e * (K - 1) * lanes
        now = load(wide, e * lanes)
        for k in range(K - 1):
            seen = load(conv, past + k * lanes)
            found = fma(splat(weights, at[2] + e * K + k), seen, found)
            if k > 0:
                store(conv, past + (k - 1) * lanes, seen)
        store(conv, past + (K - 2) * lanes, now)
        store(inner, e * lanes, silu(fma(splat(weights, at[2] + e * K + K - 1), now, found), inner))
    project(weights, at[4], E, (R + 2 * N + 15) // 16 * 16, lanes, inner, low)
    project(weights, at[5], R, E, lanes, low, wide)  # the x half of `wide` is not needed any more
    for e in range(E):
        x = load(inner, e * lanes)
        delta = softplus(add(load(wide, e * lanes), splat(weights, at[6] + e)), inner)
        written = mul(delta, x)
        read = mul(splat(weights, at[8] + e), x)
        for n in range(N):
            place = h_base + (e * N + n) * lanes
            decay = exp(mul(delta, splat(weights, at[7] + e * N + n)))
            state = fma(decay, load(h, place), mul(written, load(low, (R + n) * lanes)))
            store(h, place, state)
            read = fma(state, load(low, (R + N + n) * lanes), read)
        store(inner, e * lanes, mul(read, silu(load(wide, (E + e) * lanes), inner)))


@compiled
def choose(head, dims, x, scores, found):
    """Where head (V,d) x is largest, into found[:lanes]; found[lanes:] becomes NaN where a score is not finite."""
    lanes, _, _, d, _, _, _, _, V = dims
    best, chosen, bad = number(x, -np.inf), number(x, 0.0), number(x, 0.0)
    for j in range(0, V, 16):
        project(head, j * d, d, 16, lanes, x, scores)
        for r in range(min(16, V - j)):
            score = load(scores, r * lanes)
            chosen = where_greater(score, best, number(x, j + r), chosen)
            best = where_greater(score, best, score, best)
            bad = fma(score, number(x, 0.0), bad)
    store(found, 0, chosen)
    store(found, lanes, bad)


@compiled
def embed(embeddings, tokens, at, d, lanes, x):
    """The residual stream x (d, lanes) of the tokens at tokens[at:at+lanes]."""
    for r in range(lanes):
        token = tokens[at + r]
        for c in range(d):
            x[c * lanes + r] = embeddings[token * d + c]


@compiled
def through(weights, at, dims, eps, g, x, memory, conv, h):
    """The residual stream x (d, lanes) of group g through all layers; memory: see `working_memory`."""
    lanes, _, layers, d, E, N, _, K, _ = dims
    u, wide, inner, low = memory
    for layer in range(layers):
        own = at[layer]
        normalise(weights, own[0], d, eps, lanes, x, u)
        block = g * layers + layer
        base = (block * E * (K - 1) * lanes, block * E * N * lanes)
        mix(weights, own, dims, u, wide, inner, low, conv, h, base)
        project(weights, own[9], E, d, lanes, inner, u)
        for c in range(d):
            store(x, c * lanes, add(load(x, c * lanes), load(u, c * lanes)))


@compiled
def working_memory(weights, dims):
    """u (d, lanes), wide (2E, lanes), inner (E, lanes), low (R+2N, lanes)."""
    lanes, _, _, d, E, N, R, _, _ = dims
    return (
        np.empty(d * lanes, weights.dtype),
        np.empty(2 * E * lanes, weights.dtype),
        np.empty(E * lanes, weights.dtype),
        np.empty((R + 2 * N + 15) // 16 * 16 * lanes, weights.dtype),
    )


@compiled
def restore(states, originals, at, numbers, lanes, lane):
    """One lane of the `numbers` vectors at states[at:] becomes that of `originals`."""
    for i in range(numbers):
        states[at + i * lanes + lane] = originals[at + i * lanes + lane]


@compiled
def read(first, last, dims, eps, weights, at, embeddings, tokens, starts, conv_before, h_before, conv, h):
    """The states of groups first..last-1 after `steps` given tokens (G, steps, lanes), into conv and h.

    starts (G, lanes): the step at which a sequence begins, `steps` for one that reads nothing. What lies before it is
    no text: the sequence's states are then put back to conv_before and h_before, which are otherwise not looked at.
    """
    lanes, steps, layers, d, E, N, _, K, _ = dims
    window, state = layers * E * (K - 1), layers * E * N
    x, memory = np.empty(d * lanes, weights.dtype), working_memory(weights, dims)
    for g in range(first, last):
        for step in range(steps + 1):
            for r in range(lanes):
                if step > 0 and starts[g * lanes + r] == step:
                    restore(conv, conv_before, g * window * lanes, window, lanes, r)
                    restore(h, h_before, g * state * lanes, state, lanes, r)
            if step < steps:
                embed(embeddings, tokens, (g * steps + step) * lanes, d, lanes, x)
                through(weights, at, dims, eps, g, x, memory, conv, h)


@compiled
def decode(first, last, dims, eps, weights, at, embeddings, head, tokens, conv, h, chosen):
    """`steps` greedy tokens for groups first..last-1.

    tokens (G, lanes) the last token of each sequence; conv (G, layers, E, K-1, lanes), h (G, layers, E, N, lanes) the
    states, which become those after the last step; embeddings (V,d), head (V padded to 16, d); chosen
    (G, steps, lanes): the tokens, -1 where a score was not finite.
    """
    lanes, steps, layers, d, _, _, _, _, _ = dims
    x, memory = np.empty(d * lanes, weights.dtype), working_memory(weights, dims)
    scores, found = np.empty(16 * lanes, weights.dtype), np.empty(2 * lanes, weights.dtype)
    for g in range(first, last):
        for step in range(steps):
            embed(embeddings, tokens, g * lanes, d, lanes, x)
            through(weights, at, dims, eps, g, x, memory, conv, h)
            normalise(weights, at[layers][0], d, eps, lanes, x, memory[0])
            choose(head, dims, memory[0], scores, found)
            for r in range(lanes):
                token = int(found[r])
                tokens[g * lanes + r] = token
                chosen[(g * steps + step) * lanes + r] = token if found[lanes + r] == 0.0 else -1
