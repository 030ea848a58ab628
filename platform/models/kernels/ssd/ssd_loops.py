"""The loops of the numba SSD, forward and backward, over a range of tasks.

Everything is the recurrence H_t = a_t H_{t-1} + u_t (outer) k_t with the read-out H_t q_t, forward or backward in time.
A task keeps ROWS keys times one vector of u in registers and walks the whole sequence with them, then takes the next
rows; nothing but inputs and outputs touches memory, and there is no chunk.

All arrays are flat and C-ordered; `width` is the head width P and `size` the number of states N, each padded to whole
vectors, `lanes` the numbers in a vector. Promises: a task writes only places of its own, so any split of the tasks over
threads gives the same bits. A decay of exactly 0 starts from zeros, whatever the state was. Importing this file imports
numba.
"""

from __future__ import annotations

import numpy as np

from ....core.compiled_loops import compiled
from ..compiled.simd import fma, load, mul, splat, store, total, zero
from ..compiled.simd_rows import ROWS, add_rows, decay_and_write, dot_rows, load_rows, read_rows, store_rows, zero_rows

# numba caches by this file alone; naming the bytes of the vector operations here renews its cache when they change.
VECTOR_SOURCES = "d2989ee4d9b282ae"


@compiled
def recur(first, last, shape, u, k, q, a, start, slot, backward, out, read, end):
    """Tasks first..last-1 (a task is a sequence and a head) of out_t = H_t q_t.

    u, out (B,T,H,width); k, q (B,T,G,size); a (B,H,T+1), a[T] = 0; read (B,S,H,size,width); slot (T): the place of step
    t in read, or -1. The result is added to out. Forward: H starts from start (B,H,size,width), zero if empty, and is
    stored into read. Backward: time runs down with H_t = a_{t+1} H_{t+1} + u_t (outer) k_t + read at t if read is not
    empty; a_0 H_0 goes to end (B,H,size,width) if that is not empty.
    """
    time, heads, per_group, width, size, real_size, reads, lanes = shape
    groups = heads // per_group
    ahead = 1 if backward else 0
    next_token = heads * width
    next_key = groups * size
    for task in range(first, last):
        b = task // heads
        head = task % heads
        state = task * size * width
        decays = task * (time + 1)
        first_row = b * time * next_token + head * width
        first_key = b * time * next_key + head // per_group * size
        reading = b * reads * heads + head
        for n in range(0, real_size, ROWS):
            for c in range(0, width, lanes):
                H = zero_rows(u)
                if not backward and start.size > 0:
                    H = load_rows(start, state + n * width + c, width)
                for i in range(time):
                    t = time - 1 - i if backward else i
                    row = first_row + t * next_token + c
                    key = first_key + t * next_key + n
                    if a[decays + t + ahead] == 0:
                        H = zero_rows(u)
                    H = decay_and_write(H, splat(a, decays + t + ahead), load(u, row), k, key)
                    if slot[t] >= 0:
                        place = ((reading + slot[t] * heads) * size + n) * width + c
                        if not backward:
                            store_rows(read, place, width, H)
                        elif read.size > 0:
                            H = add_rows(H, load_rows(read, place, width))
                    store(out, row, read_rows(H, q, key, load(out, row)))
                if backward and end.size > 0:
                    if a[decays] == 0:
                        H = zero_rows(u)
                    H = decay_and_write(H, splat(a, decays), zero(u), k, 0)
                    store_rows(end, state + n * width + c, width, H)


@compiled
def key_gradients(first, last, shape, w, B, C, a, start, slot, grad_y, grad_read, grad_B, grad_C, grad_exponent):
    """Tasks first..last-1 (a task is a sequence, a group and a vector of states) of the gradients of B, C and Delta A.

    w, grad_y (B,T,H,width); B, C, grad_B, grad_C (B,T,G,size); start (B,H,width,size), zero if empty; grad_read
    (B,S,H,width,size) or empty; grad_exponent (size / lanes,B,T,H) holds a_t <L_t, S_{t-1}>, one partial sum per
    vector. grad_B, grad_C and grad_exponent must come in as zeros.
    """
    time, heads, per_group, width, size, real_width, reads, lanes = shape
    groups = heads // per_group
    vectors = size // lanes
    sequences = grad_exponent.size // (vectors * time * heads)
    next_token = heads * width
    next_key = groups * size
    # The states after each step, for one tile; entry 0 is the state before the first.
    tile = ROWS * lanes
    states = np.empty((time + 1) * tile, w.dtype)
    for task in range(first, last):
        vector = task % vectors
        group = (task // vectors) % groups
        b = task // vectors // groups
        c = vector * lanes
        first_key = b * time * next_key + group * size + c
        for head in range(group * per_group, (group + 1) * per_group):
            decays = (b * heads + head) * (time + 1)
            first_overlap = (vector * sequences + b) * time * heads + head
            for p in range(0, real_width, ROWS):
                first_row = b * time * next_token + head * width + p
                S = zero_rows(w)
                if start.size > 0:
                    S = load_rows(start, ((b * heads + head) * width + p) * size + c, size)
                store_rows(states, 0, lanes, S)
                for t in range(time):
                    row = first_row + t * next_token
                    key = first_key + t * next_key
                    if a[decays + t] == 0:
                        S = zero_rows(w)
                    S = decay_and_write(S, splat(a, decays + t), load(B, key), w, row)
                    store_rows(states, (t + 1) * tile, lanes, S)
                    store(grad_C, key, read_rows(S, grad_y, row, load(grad_C, key)))
                L = zero_rows(w)
                for t in range(time - 1, -1, -1):
                    row = first_row + t * next_token
                    key = first_key + t * next_key
                    if a[decays + t + 1] == 0:
                        L = zero_rows(w)
                    L = decay_and_write(L, splat(a, decays + t + 1), load(C, key), grad_y, row)
                    if slot[t] >= 0 and grad_read.size > 0:
                        place = (((b * reads + slot[t]) * heads + head) * width + p) * size + c
                        L = add_rows(L, load_rows(grad_read, place, size))
                    store(grad_B, key, read_rows(L, w, row, load(grad_B, key)))
                    if a[decays + t] != 0:
                        overlap = total(dot_rows(L, load_rows(states, t * tile, lanes)))
                        grad_exponent[first_overlap + t * heads] += a[decays + t] * overlap


@compiled
def input_gradients(
    first, last, lanes, width, x, delta, D, grad_written, grad_y, grad_x, through_written, through_skip
):
    """Heads of tokens first..last-1 of what follows from w = delta x and the skip D x, in one pass over memory.

    x, grad_written, grad_y, grad_x (B,T,H,width); delta (B,T,H); D (H). Each head of a token gets the sums over its
    width through_written = grad_written . x and through_skip = grad_y . x (B,T,H).
    """
    heads = D.size
    for row in range(first, last):
        written = zero(x)
        skipped = zero(x)
        scale = splat(delta, row)
        skip = splat(D, row % heads)
        for i in range(row * width, (row + 1) * width, lanes):
            x_i = load(x, i)
            grad_w = load(grad_written, i)
            grad = load(grad_y, i)
            written = fma(grad_w, x_i, written)
            skipped = fma(grad, x_i, skipped)
            store(grad_x, i, fma(grad, skip, mul(grad_w, scale)))
        through_written[row] = total(written)
        through_skip[row] = total(skipped)
