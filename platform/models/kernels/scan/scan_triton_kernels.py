"""The device code of the selective scan: one program walks a chunk of STEPS tokens for a block of channels.

Layouts, all contiguous: x, delta (B,T,E); A (E,N); B (B,T,N); C (B,T,R,N) and y (B,T,R,E) with R read-outs, one in the
plain case; reset (B,T) bytes; starts, incoming and the other states by chunk (B, count, E, N); total (B, count, E);
read (B, positions, E, N); slots (T): the place in `read` of the state after a step, or -1. A state is a tile (BLOCK_E,
BLOCK_N); lanes outside of the tensors hold zeros, and a step outside of the sequence has Delta = 0, which changes no
state. An argument that is None is compiled away.
"""

from __future__ import annotations

from ..compiled.launch_triton import constexpr, tl, triton


@triton.jit
def _block(channels, size, count, BLOCK_E: constexpr, BLOCK_N: constexpr):
    """Where a program is: row = (sequence, chunk), sequence, chunk; channels e, states n and their masks."""
    row = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    return row, row // count, row % count, e, n, e < channels, n < size


@triton.jit
def local_states(
    x, delta, A, B, reset, states, total, time, channels, size, count,
    STEPS: constexpr, BLOCK_E: constexpr, BLOCK_N: constexpr,
):  # fmt: skip
    """The state that a chunk leaves behind when it starts from zero, and its sum of Delta."""
    row, batch, number, e, n, e_in, n_in = _block(channels, size, count, BLOCK_E, BLOCK_N)
    tile, tile_in = e[:, None] * size + n[None, :], e_in[:, None] & n_in[None, :]
    rate = tl.load(A + tile, mask=tile_in, other=0.0)
    h = tl.zeros((BLOCK_E, BLOCK_N), x.dtype.element_ty)
    sums = tl.zeros((BLOCK_E,), x.dtype.element_ty)
    begin = number * STEPS
    for t in range(begin, min(begin + STEPS, time)):
        at = batch * time + t
        dt = tl.load(delta + at * channels + e, mask=e_in, other=0.0)
        written = tl.load(x + at * channels + e, mask=e_in, other=0.0) * dt
        b = tl.load(B + at * size + n, mask=n_in, other=0.0)
        if reset is not None:
            h = tl.where(tl.load(reset + at) != 0, 0.0, h)
        h = tl.exp(dt[:, None] * rate) * h + written[:, None] * b[None, :]
        sums += dt
    tl.store(states + row * channels * size + tile, h, mask=tile_in)
    tl.store(total + row * channels + e, sums, mask=e_in)


@triton.jit
def outputs(
    x, delta, A, B, C, D, reset, starts, slots, y, read, time, channels, size, count, positions,
    READOUTS: constexpr, STEPS: constexpr, BLOCK_E: constexpr, BLOCK_N: constexpr,
):  # fmt: skip
    """y, and the states asked for. The same compiled code runs whether states are asked for or not, so y is the same to
    the bit."""
    row, batch, number, e, n, e_in, n_in = _block(channels, size, count, BLOCK_E, BLOCK_N)
    tile, tile_in = e[:, None] * size + n[None, :], e_in[:, None] & n_in[None, :]
    rate = tl.load(A + tile, mask=tile_in, other=0.0)
    h = tl.load(starts + row * channels * size + tile, mask=tile_in, other=0.0)
    begin = number * STEPS
    for t in range(begin, min(begin + STEPS, time)):
        at = batch * time + t
        dt = tl.load(delta + at * channels + e, mask=e_in, other=0.0)
        value = tl.load(x + at * channels + e, mask=e_in, other=0.0)
        b = tl.load(B + at * size + n, mask=n_in, other=0.0)
        if reset is not None:
            h = tl.where(tl.load(reset + at) != 0, 0.0, h)
        h = tl.exp(dt[:, None] * rate) * h + (dt * value)[:, None] * b[None, :]
        for r in tl.static_range(READOUTS):
            c = tl.load(C + (at * READOUTS + r) * size + n, mask=n_in, other=0.0)
            out = tl.sum(h * c[None, :], 1)
            if D is not None and r == 0:
                out += tl.load(D + e, mask=e_in, other=0.0) * value
            tl.store(y + (at * READOUTS + r) * channels + e, out, mask=e_in)
        slot = tl.load(slots + t)
        if slot >= 0:
            tl.store(read + (batch * positions + slot) * channels * size + tile, h, mask=tile_in)


@triton.jit
def _adjoint(
    C, grad_y, later, grad_read, slots, at, t, time, batch, positions, channels, size, e, n, here, states_here,
    tile, tile_in, READOUTS: constexpr,
):  # fmt: skip
    """l_t = sum_r C_t^r dy_t^r + exp(Delta_{t+1} A) l_{t+1} + the gradient of a state read out at t."""
    adjoint = later
    for r in tl.static_range(READOUTS):
        dy = tl.load(grad_y + (at * READOUTS + r) * channels + e, mask=here, other=0.0)
        c = tl.load(C + (at * READOUTS + r) * size + n, mask=states_here, other=0.0)
        adjoint += dy[:, None] * c[None, :]
    if grad_read is not None:
        slot = tl.load(slots + t, mask=t < time, other=-1)
        if slot >= 0:
            place = (batch * positions + slot) * channels * size + tile
            adjoint += tl.load(grad_read + place, mask=tile_in, other=0.0)
    return adjoint


@triton.jit
def local_adjoints(
    delta, A, C, reset, slots, grad_y, grad_read, adjoints, time, channels, size, count, positions,
    READOUTS: constexpr, STEPS: constexpr, BLOCK_E: constexpr, BLOCK_N: constexpr,
):  # fmt: skip
    """The gradient of the state entering a chunk when nothing comes from the chunks after it."""
    row, batch, number, e, n, e_in, n_in = _block(channels, size, count, BLOCK_E, BLOCK_N)
    tile, tile_in = e[:, None] * size + n[None, :], e_in[:, None] & n_in[None, :]
    rate = tl.load(A + tile, mask=tile_in, other=0.0)
    later = tl.zeros((BLOCK_E, BLOCK_N), A.dtype.element_ty)
    begin = number * STEPS
    end = min(begin + STEPS, time)
    for i in range(0, end - begin):
        t = end - 1 - i
        at = batch * time + t
        dt = tl.load(delta + at * channels + e, mask=e_in, other=0.0)
        adjoint = _adjoint(
            C, grad_y, later, grad_read, slots, at, t, time, batch, positions, channels, size, e, n, e_in, n_in,
            tile, tile_in, READOUTS,
        )  # fmt: skip
        later = tl.exp(dt[:, None] * rate) * adjoint
        if reset is not None:
            later = tl.where(tl.load(reset + at) != 0, 0.0, later)
    tl.store(adjoints + row * channels * size + tile, later, mask=tile_in)


@triton.jit
def gradients(
    x, delta, A, B, C, D, reset, starts, slots, grad_y, grad_read, incoming,
    grad_x, grad_delta, grad_B, grad_C, time, channels, size, count, positions,
    READOUTS: constexpr, STEPS: constexpr, BLOCK_E: constexpr, BLOCK_N: constexpr,
):  # fmt: skip
    """Every gradient of a chunk but that of D, from the state entering it and the adjoint from the chunks after it.

    The states of the chunk are computed again and stay in registers: the loops over STEPS are unrolled, so that they
    are a tuple. grad_B (blocks of channels, B, T, N) and grad_C (blocks, B, T, R, N) are parts of sums over the
    channels; the part of grad_A takes the place of `incoming`, which no other program reads.
    """
    row, batch, number, e, n, e_in, n_in = _block(channels, size, count, BLOCK_E, BLOCK_N)
    tile, tile_in = e[:, None] * size + n[None, :], e_in[:, None] & n_in[None, :]
    area = channels * size
    rate = tl.load(A + tile, mask=tile_in, other=0.0)
    begin = number * STEPS
    h = tl.load(starts + row * area + tile, mask=tile_in, other=0.0)
    before = ()
    for i in tl.static_range(STEPS):
        t = begin + i
        at = batch * time + t
        here, states_here = e < tl.where(t < time, channels, 0), n < tl.where(t < time, size, 0)
        dt = tl.load(delta + at * channels + e, mask=here, other=0.0)
        written = tl.load(x + at * channels + e, mask=here, other=0.0) * dt
        b = tl.load(B + at * size + n, mask=states_here, other=0.0)
        if reset is not None:
            h = tl.where(tl.load(reset + at, mask=t < time, other=0) != 0, 0.0, h)
        before = before + (h,)
        h = tl.exp(dt[:, None] * rate) * h + written[:, None] * b[None, :]

    later = tl.load(incoming + row * area + tile, mask=tile_in, other=0.0)
    grad_rate = tl.zeros((BLOCK_E, BLOCK_N), x.dtype.element_ty)
    # The first row of this program in the parts of grad_B and grad_C.
    part = (tl.program_id(1) * (tl.num_programs(0) // count).to(tl.int64) + batch) * time
    for j in tl.static_range(STEPS):
        t = begin + (STEPS - 1 - j)
        at = batch * time + t
        inside = t < time
        here, states_here = e < tl.where(inside, channels, 0), n < tl.where(inside, size, 0)
        dt = tl.load(delta + at * channels + e, mask=here, other=0.0)
        value = tl.load(x + at * channels + e, mask=here, other=0.0)
        b = tl.load(B + at * size + n, mask=states_here, other=0.0)
        adjoint = _adjoint(
            C, grad_y, later, grad_read, slots, at, t, time, batch, positions, channels, size, e, n, here, states_here,
            tile, tile_in, READOUTS,
        )  # fmt: skip
        decay = tl.exp(dt[:, None] * rate)
        # exp(Delta_t A) h_{t-1}, zero at the start of a document: d h_t / d(Delta_t A).
        carried = decay * before[STEPS - 1 - j]
        h = carried + (dt * value)[:, None] * b[None, :]
        for r in tl.static_range(READOUTS):
            dy = tl.load(grad_y + (at * READOUTS + r) * channels + e, mask=here, other=0.0)
            tl.store(grad_C + ((part + t) * READOUTS + r) * size + n, tl.sum(dy[:, None] * h, 0), mask=states_here)
        tl.store(grad_B + (part + t) * size + n, tl.sum(adjoint * (dt * value)[:, None], 0), mask=states_here)
        grad_written = tl.sum(adjoint * b[None, :], 1)
        exponent = adjoint * carried
        grad_rate += exponent * dt[:, None]
        tl.store(grad_delta + at * channels + e, tl.sum(exponent * rate, 1) + grad_written * value, mask=here)
        grad_value = grad_written * dt
        if D is not None:
            dy = tl.load(grad_y + at * READOUTS * channels + e, mask=here, other=0.0)
            grad_value += tl.load(D + e, mask=e_in, other=0.0) * dy
        tl.store(grad_x + at * channels + e, grad_value, mask=here)
        later = decay * adjoint
        if reset is not None:
            later = tl.where(tl.load(reset + at, mask=inside, other=0) != 0, 0.0, later)
    tl.store(incoming + row * area + tile, grad_rate, mask=tile_in)
