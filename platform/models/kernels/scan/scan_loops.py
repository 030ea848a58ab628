"""The loops of the numba scan: forward and backward over a range of tasks, one task being a sequence times a block of
channels.

Vectors run over channels, so the states of a block, (states, channels), stay in the cache while time goes by, and a
read-out is a sum of vectors. All arrays are flat and C-ordered; `width` is the number of channels padded to whole
vectors, `lanes` the channels of a vector, `block` those of a task (a multiple of `lanes`). `more` is the number of
read-outs besides the first, or None for none: numba drops what `more is not None` guards, so that the plain scan pays
nothing for it. R stands for the number of read-outs.

Promises: a task writes only places of its own, so any split of the tasks over threads gives the same bits; the values
of y do not depend on which states are saved. Sums over channels and sequences are left to the caller as one partial per
task. Importing this file imports numba.
"""

from __future__ import annotations

import numpy as np

from ....core.compiled_loops import compiled
from ..compiled.simd import add, exp, fma, load, mul, splat, store, total, zero

# numba caches by this file alone; naming the bytes of the vector operations here renews its cache when they change.
VECTOR_SOURCES = "d2989ee4d9b282ae"


@compiled
def forward(first, last, shape, more, x, delta, A, B, C, D, start, reset, slot, every, y, read, saved):
    """Tasks first..last-1 of the scan.

    x, delta (B,T,width); A (N,width); B (B,T,N); C (B,T,R,N); D (width), which belongs to the first read-out; start
    (B,N,width); reset (B,T) or empty; slot (T): the place of h_t in read (B,P,N,width), or -1; y (B,T,R,width); saved
    (B, ceil(T / every), N, width): h before each `every`-th step, not written if empty.
    """
    time, width, states, reads, lanes, block = shape
    readouts = 1
    if more is not None:
        readouts += more
    blocks = (width + block - 1) // block
    chunks = (time + every - 1) // every
    # Row `states` onwards is a state of zeros: what the first step of a document starts from.
    h = np.zeros(2 * states * block, x.dtype)
    zeros = states * block
    for task in range(first, last):
        b = task // blocks
        left = (task % blocks) * block
        here = min(block, width - left)
        for n in range(states):
            for c in range(0, here, lanes):
                store(h, n * block + c, load(start, (b * states + n) * width + left + c))
        for t in range(time):
            if saved.size > 0 and t % every == 0:
                to = (b * chunks + t // every) * states * width + left
                for n in range(states):
                    for c in range(0, here, lanes):
                        store(saved, to + n * width + c, load(h, n * block + c))
            row = (b * time + t) * width + left
            token = (b * time + t) * states
            key = token * readouts
            out = (b * time + t) * readouts * width + left
            before = zeros if reset.size > 0 and reset[b * time + t] else 0
            for c in range(0, here, lanes):
                x_t = load(x, row + c)
                delta_t = load(delta, row + c)
                written = mul(delta_t, x_t)
                y_t = mul(load(D, left + c), x_t)
                for n in range(states):
                    decay = exp(mul(delta_t, load(A, n * width + left + c)))
                    h_n = fma(decay, load(h, before + n * block + c), mul(written, splat(B, token + n)))
                    store(h, n * block + c, h_n)
                    y_t = fma(h_n, splat(C, key + n), y_t)
                store(y, out + c, y_t)
                if more is not None:
                    for r in range(1, readouts):
                        y_t = zero(x)
                        for n in range(states):
                            y_t = fma(load(h, n * block + c), splat(C, key + r * states + n), y_t)
                        store(y, out + r * width + c, y_t)
            if slot[t] >= 0:
                to = (b * reads + slot[t]) * states * width + left
                for n in range(states):
                    for c in range(0, here, lanes):
                        store(read, to + n * width + c, load(h, n * block + c))


@compiled
def backward(
    first, last, shape, more, x, delta, A, B, C, D, reset, slot, every, saved, grad_y, grad_read,
    grad_x, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_start,
):  # fmt: skip
    """Tasks first..last-1 of the adjoint; arrays as in `forward`, with these partial sums:

    grad_A (B,N,width) and grad_D (B,width) per sequence; grad_B (blocks,B,T,N), grad_C (blocks,B,T,R,N) per block of
    channels. grad_read is empty if no state was read. grad_A, grad_D must come in as zeros.
    """
    time, width, states, reads, lanes, block = shape
    readouts = 1
    if more is not None:
        readouts += more
    blocks = (width + block - 1) // block
    chunks = (time + every - 1) // every
    sequences = saved.size // (chunks * states * width)
    size = states * block
    h = np.zeros((every + 2) * size, x.dtype)  # the state before the chunk, after each of its steps, and one of zeros
    zeros = (every + 1) * size
    decay = np.empty(every * size, x.dtype)
    carried = np.empty(size, x.dtype)
    sum_B = np.empty(states * lanes, x.dtype)
    sum_C = np.empty(readouts * states * lanes, x.dtype)
    none = zero(x)
    for task in range(first, last):
        b = task // blocks
        left = (task % blocks) * block
        here = min(block, width - left)
        partial = ((task % blocks) * sequences + b) * time * states
        for i in range(0, size, lanes):
            store(carried, i, none)
        for chunk in range(chunks - 1, -1, -1):
            begin = chunk * every
            end = min(begin + every, time)
            origin = (b * chunks + chunk) * states * width + left
            for n in range(states):
                for c in range(0, here, lanes):
                    store(h, n * block + c, load(saved, origin + n * width + c))
            for t in range(begin, end):
                row = (b * time + t) * width + left
                token = (b * time + t) * states
                i = (t - begin) * size
                before = zeros if reset.size > 0 and reset[b * time + t] else i
                for c in range(0, here, lanes):
                    delta_t = load(delta, row + c)
                    written = mul(delta_t, load(x, row + c))
                    for n in range(states):
                        a = exp(mul(delta_t, load(A, n * width + left + c)))
                        store(decay, i + n * block + c, a)
                        h_n = fma(a, load(h, before + n * block + c), mul(written, splat(B, token + n)))
                        store(h, i + size + n * block + c, h_n)
            for t in range(end - 1, begin - 1, -1):
                row = (b * time + t) * width + left
                token = (b * time + t) * states
                key = token * readouts
                out = (b * time + t) * readouts * width + left
                i = (t - begin) * size
                fresh = reset.size > 0 and reset[b * time + t]
                before = zeros if fresh else i
                if grad_read.size > 0 and slot[t] >= 0:
                    origin = (b * reads + slot[t]) * states * width + left
                    for n in range(states):
                        for c in range(0, here, lanes):
                            at = n * block + c
                            store(carried, at, add(load(carried, at), load(grad_read, origin + n * width + c)))
                for n in range(0, states * lanes, lanes):
                    store(sum_B, n, none)
                for n in range(0, readouts * states * lanes, lanes):
                    store(sum_C, n, none)
                for c in range(0, here, lanes):
                    x_t = load(x, row + c)
                    delta_t = load(delta, row + c)
                    g_t = load(grad_y, out + c)
                    written = mul(delta_t, x_t)
                    grad_written = none
                    grad_delta_t = none
                    for n in range(states):
                        at = n * block + c
                        adjoint = fma(g_t, splat(C, key + n), load(carried, at))
                        if more is not None:
                            h_n = load(h, i + size + at)
                            for r in range(1, readouts):
                                g_r = load(grad_y, out + r * width + c)
                                adjoint = fma(g_r, splat(C, key + r * states + n), adjoint)
                                place = (r * states + n) * lanes
                                store(sum_C, place, fma(g_r, h_n, load(sum_C, place)))
                        store(sum_B, n * lanes, fma(adjoint, written, load(sum_B, n * lanes)))
                        store(sum_C, n * lanes, fma(g_t, load(h, i + size + at), load(sum_C, n * lanes)))
                        grad_written = fma(adjoint, splat(B, token + n), grad_written)
                        passed = mul(adjoint, load(decay, i + at))
                        store(carried, at, passed)
                        exponent = mul(passed, load(h, before + at))
                        column = n * width + left + c
                        grad_delta_t = fma(exponent, load(A, column), grad_delta_t)
                        column += b * states * width
                        store(grad_A, column, fma(exponent, delta_t, load(grad_A, column)))
                    store(grad_delta, row + c, fma(grad_written, x_t, grad_delta_t))
                    store(grad_x, row + c, fma(grad_written, delta_t, mul(g_t, load(D, left + c))))
                    column = b * width + left + c
                    store(grad_D, column, fma(g_t, x_t, load(grad_D, column)))
                for n in range(states):
                    grad_B[partial + t * states + n] = total(load(sum_B, n * lanes))
                for n in range(readouts * states):
                    grad_C[(partial + t * states) * readouts + n] = total(load(sum_C, n * lanes))
                if fresh:
                    for i in range(0, size, lanes):
                        store(carried, i, none)
        for n in range(states):
            for c in range(0, here, lanes):
                store(grad_start, (b * states + n) * width + left + c, load(carried, n * block + c))
