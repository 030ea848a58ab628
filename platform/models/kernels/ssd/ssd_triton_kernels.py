"""The device code of the SSD: one program computes a chunk of Q tokens of one head as matrix products.

With a(i, j) = exp(A sum_{s=j+1..i} Delta_s) inside a chunk, S the state entering it and w_j = Delta_j x_j (see
`ssd_chunks`):
  y_i = sum_{j<=i} a(i, j) (C_i . B_j) w_j + a(i, -1) S C_i        S' = a(last, -1) S + sum_j a(last, j) w_j (outer) B_j
Promises: only sums built up from zero are exponentiated, never differences of running sums; a reset is a step of -inf.

Layouts, all contiguous: x, y (B,T,H,P); delta (B,T,H); A, D (H); B, C (B,T,G,N); reset (B,T) bytes; starts, incoming
and the other states by chunk (B, count, H, P, N); total (B, count, H). A state is taken in slices of BLOCK_N of its N
columns. Lanes outside of the tensors hold zeros, and a step outside of the sequence has Delta = 0, which changes no
state. An argument that is None is compiled away. PRECISION is that of the matrix products, see `ssd_triton`.
"""

from __future__ import annotations

from ..compiled.launch_triton import constexpr, tl, triton


@triton.jit
def _place(time, heads, groups, count, Q: constexpr):
    """Where a program is: row = (sequence, chunk, head), the sequence, the chunk's first step, the head, its group."""
    chunk = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    return chunk * heads + head, chunk // count, (chunk % count) * Q, head, head // (heads // groups)


@triton.jit
def _matrix(pointer, rows, columns, stride, row_limit, column_limit):
    """A tile: element (i, j) at rows[i] * stride + columns[j], zero outside of the limits."""
    inside = (rows < row_limit)[:, None] & (columns < column_limit)[None, :]
    return tl.load(pointer + rows[:, None].to(tl.int64) * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _steps(delta, rate, reset, t, wanted, batch, time, head, heads):
    """Delta A of the steps t, -inf at a reset, 0 where not `wanted`."""
    steps = rate * tl.load(delta + (batch * time + t) * heads + head, mask=wanted, other=0.0)
    if reset is not None:
        steps = tl.where(tl.load(reset + batch * time + t, mask=wanted, other=0) != 0, float("-inf"), steps)
    return steps


@triton.jit
def _decays(delta, rate, reset, begin, batch, time, head, heads, Q: constexpr):
    """a(i, -1) and a(last, j), both (Q)."""
    t = begin + tl.arange(0, Q)
    from_start = tl.cumsum(_steps(delta, rate, reset, t, t < time, batch, time, head, heads), 0)
    # The sum from the end starts one step later: no step is added that would have to be taken away again.
    later = _steps(delta, rate, reset, t + 1, t + 1 < min(begin + Q, time), batch, time, head, heads)
    return tl.exp(from_start), tl.exp(tl.cumsum(later, 0, reverse=True))


@triton.jit
def _pair_decay(delta, rate, reset, begin, batch, time, head, heads, Q: constexpr):
    """a (Q,Q), zero above the diagonal: column j adds up the steps from j + 1 on."""
    t = begin + tl.arange(0, Q)
    i, j = tl.arange(0, Q)[:, None], tl.arange(0, Q)[None, :]
    steps = _steps(delta, rate, reset, t, t < time, batch, time, head, heads)
    sums = tl.cumsum(tl.where(i > j, steps[:, None], 0.0), 0)
    return tl.where(i >= j, tl.exp(sums), 0.0)


@triton.jit
def local_states(
    values, delta, A, vectors, reset, states, total, time, heads, width, groups, size, count,
    BACKWARD: constexpr, Q: constexpr, BLOCK_P: constexpr, BLOCK_N: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """A slice of what a chunk adds to the state: sum_j a(last, j) Delta_j x_j (outer) B_j, from values x and vectors B;
    and the chunk's sum of Delta. BACKWARD: what it adds to the gradient of the state entering it, sum_i a(i, -1) dy_i
    (outer) C_i, from values dy and vectors C.
    """
    row, batch, begin, head, group = _place(time, heads, groups, count, Q)
    t = begin + tl.arange(0, Q)
    p, n = tl.arange(0, BLOCK_P), tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    rate = tl.load(A + head)
    from_start, to_last = _decays(delta, rate, reset, begin, batch, time, head, heads, Q)
    dt = tl.load(delta + (batch * time + t) * heads + head, mask=t < time, other=0.0)
    value = _matrix(values + (batch * time * heads + head) * width, t, p, heads * width, time, width)
    if BACKWARD:
        value = value * from_start[:, None]
    else:
        value = value * (to_last * dt)[:, None]
        if tl.program_id(2) == 0:
            tl.store(total + row, tl.sum(dt, 0))
    vector = _matrix(vectors + (batch * time * groups + group) * size, t, n, groups * size, time, size)
    added = tl.dot(tl.trans(value), vector, input_precision=PRECISION, out_dtype=values.dtype.element_ty)
    inside = (p < width)[:, None] & (n < size)[None, :]
    tl.store(states + (row * width + p[:, None]) * size + n[None, :], added, mask=inside)


@triton.jit
def outputs(
    x, delta, A, B, C, D, reset, starts, y, time, heads, width, groups, size, count,
    Q: constexpr, BLOCK_P: constexpr, BLOCK_N: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """y of one chunk and head."""
    row, batch, begin, head, group = _place(time, heads, groups, count, Q)
    kind = x.dtype.element_ty
    t, p = begin + tl.arange(0, Q), tl.arange(0, BLOCK_P)
    rate = tl.load(A + head)
    products = tl.zeros((Q, Q), kind)
    read = tl.zeros((Q, BLOCK_P), kind)
    rows = (batch * time * groups + group) * size
    for first in range(0, size, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        b = _matrix(B + rows, t, n, groups * size, time, size)
        c = _matrix(C + rows, t, n, groups * size, time, size)
        state = _matrix(starts + row * width * size, p, n, size, width, size)
        products += tl.dot(c, tl.trans(b), input_precision=PRECISION, out_dtype=kind)
        read += tl.dot(c, tl.trans(state), input_precision=PRECISION, out_dtype=kind)
    from_start, _ = _decays(delta, rate, reset, begin, batch, time, head, heads, Q)
    dt = tl.load(delta + (batch * time + t) * heads + head, mask=t < time, other=0.0)
    value = _matrix(x + (batch * time * heads + head) * width, t, p, heads * width, time, width)
    weights = products * _pair_decay(delta, rate, reset, begin, batch, time, head, heads, Q)
    out = tl.dot(weights, value * dt[:, None], input_precision=PRECISION, out_dtype=kind)
    # The factor is 0 after a document's start, and 0 * inf would carry an old overflow over.
    out += tl.where((from_start == 0.0)[:, None], 0.0, read * from_start[:, None])
    if D is not None:
        out += tl.load(D + head) * value
    inside = (t < time)[:, None] & (p < width)[None, :]
    tl.store(y + ((batch * time + t[:, None]) * heads + head) * width + p[None, :], out, mask=inside)


@triton.jit
def state_vector_gradients(
    x, delta, A, B, C, reset, starts, grad_y, incoming, grad_B, grad_C, time, heads, width, groups, size, count,
    Q: constexpr, BLOCK_P: constexpr, BLOCK_N: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """A slice of grad_B and grad_C (B,T,H,N) of one chunk and head; the sum over the heads of a group is left to the
    caller. `incoming` is the gradient of the state that leaves the chunk."""
    row, batch, begin, head, group = _place(time, heads, groups, count, Q)
    kind = x.dtype.element_ty
    t, p = begin + tl.arange(0, Q), tl.arange(0, BLOCK_P)
    n = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    rate = tl.load(A + head)
    from_start, to_last = _decays(delta, rate, reset, begin, batch, time, head, heads, Q)
    dt = tl.load(delta + (batch * time + t) * heads + head, mask=t < time, other=0.0)
    values, rows = (batch * time * heads + head) * width, (batch * time * groups + group) * size
    written = _matrix(x + values, t, p, heads * width, time, width) * dt[:, None]
    dy = _matrix(grad_y + values, t, p, heads * width, time, width)
    state = _matrix(starts + row * width * size, p, n, size, width, size)
    later = _matrix(incoming + row * width * size, p, n, size, width, size)
    grad_c = tl.dot(dy * from_start[:, None], state, input_precision=PRECISION, out_dtype=kind)
    grad_b = tl.dot(written * to_last[:, None], later, input_precision=PRECISION, out_dtype=kind)
    # Inside the chunk y = (C B^T * a) w, so the gradient of C B^T is (dy w^T) * a.
    grad_products = tl.dot(dy, tl.trans(written), input_precision=PRECISION, out_dtype=kind)
    grad_products = grad_products * _pair_decay(delta, rate, reset, begin, batch, time, head, heads, Q)
    b = _matrix(B + rows, t, n, groups * size, time, size)
    c = _matrix(C + rows, t, n, groups * size, time, size)
    grad_c += tl.dot(grad_products, b, input_precision=PRECISION, out_dtype=kind)
    grad_b += tl.dot(tl.trans(grad_products), c, input_precision=PRECISION, out_dtype=kind)
    place = ((batch * time + t[:, None]) * heads + head) * size + n[None, :]
    inside = (t < time)[:, None] & (n < size)[None, :]
    tl.store(grad_C + place, grad_c, mask=inside)
    tl.store(grad_B + place, grad_b, mask=inside)


@triton.jit
def value_gradients(
    x, delta, A, B, C, D, reset, starts, grad_y, incoming, grad_x, grad_delta, grad_A,
    time, heads, width, groups, size, count,
    Q: constexpr, BLOCK_P: constexpr, BLOCK_N: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """grad_x, grad_delta and a part of grad_A (B, count, H) of one chunk and head; the sum over chunks is left to the
    caller. `incoming` is the gradient of the state that leaves the chunk."""
    row, batch, begin, head, group = _place(time, heads, groups, count, Q)
    kind = x.dtype.element_ty
    t, p = begin + tl.arange(0, Q), tl.arange(0, BLOCK_P)
    products = tl.zeros((Q, Q), kind)
    read = tl.zeros((Q, BLOCK_P), kind)
    taken = tl.zeros((Q, BLOCK_P), kind)  # B_j . incoming: the gradient of a(last, j) w_j
    overlap = tl.zeros((BLOCK_P,), kind)
    values, rows = (batch * time * heads + head) * width, (batch * time * groups + group) * size
    for first in range(0, size, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        b = _matrix(B + rows, t, n, groups * size, time, size)
        c = _matrix(C + rows, t, n, groups * size, time, size)
        state = _matrix(starts + row * width * size, p, n, size, width, size)
        later = _matrix(incoming + row * width * size, p, n, size, width, size)
        products += tl.dot(c, tl.trans(b), input_precision=PRECISION, out_dtype=kind)
        read += tl.dot(c, tl.trans(state), input_precision=PRECISION, out_dtype=kind)
        taken += tl.dot(b, tl.trans(later), input_precision=PRECISION, out_dtype=kind)
        overlap += tl.sum(state * later, 1)

    rate = tl.load(A + head)
    from_start, to_last = _decays(delta, rate, reset, begin, batch, time, head, heads, Q)
    dt = tl.load(delta + (batch * time + t) * heads + head, mask=t < time, other=0.0)
    value = _matrix(x + values, t, p, heads * width, time, width)
    dy = _matrix(grad_y + values, t, p, heads * width, time, width)
    weights = products * _pair_decay(delta, rate, reset, begin, batch, time, head, heads, Q)
    grad_written = tl.dot(tl.trans(weights), dy, input_precision=PRECISION, out_dtype=kind) + taken * to_last[:, None]
    grad_weights = tl.dot(dy, tl.trans(value * dt[:, None]), input_precision=PRECISION, out_dtype=kind)

    # Step s is in the exponent (i, j) iff j < s <= i, in that of a(i, -1) iff s <= i, in that of a(last, j) iff j < s.
    # Where a factor is 0 so is its gradient, also when what it multiplies has overflowed.
    starting = tl.where(from_start == 0.0, 0.0, tl.sum(dy * read, 1) * from_start)
    ending = tl.where(to_last == 0.0, 0.0, tl.sum(value * taken, 1) * dt * to_last)
    whole = tl.sum(tl.where(tl.arange(0, Q) == Q - 1, from_start, 0.0), 0)
    whole = tl.where(whole == 0.0, 0.0, whole * tl.sum(overlap, 0))
    pairs = tl.cumsum(grad_weights * weights, 0, reverse=True) + ending[None, :]
    before = tl.arange(0, Q)[:, None] > tl.arange(0, Q)[None, :]
    grad_steps = tl.sum(tl.where(before, pairs, 0.0), 1) + tl.cumsum(starting, 0, reverse=True) + whole
    if reset is not None:
        # -inf, whatever Delta is.
        grad_steps = tl.where(tl.load(reset + batch * time + t, mask=t < time, other=0) != 0, 0.0, grad_steps)

    tl.store(grad_A + row, tl.sum(grad_steps * dt, 0))
    grad_dt = tl.sum(grad_written * value, 1) + grad_steps * rate
    tl.store(grad_delta + (batch * time + t) * heads + head, grad_dt, mask=t < time)
    grad_value = grad_written * dt[:, None]
    if D is not None:
        grad_value += tl.load(D + head) * dy
    inside = (t < time)[:, None] & (p < width)[None, :]
    tl.store(grad_x + values + t[:, None] * heads * width + p[None, :], grad_value, mask=inside)
