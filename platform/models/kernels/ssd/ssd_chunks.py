"""The chunk rule of the SSD with a hand-written backward: what `ssd_torch` runs for more than one token.

With a(i, j) = exp(A sum_{s=j+1..i} Delta_s) inside one chunk, S the state entering it and w_j = Delta_j x_j:
  y_i = sum_{j<=i} a(i, j) (C_i . B_j) w_j + a(i, -1) S C_i        S' = a(last, -1) S + sum_j a(last, j) w_j (outer) B_j
(Dao and Gu, "Transformers are SSMs", arXiv 2405.21060, section 6.) Promises: only sums of Delta A built up from zero
for each pair (i, j) are exponentiated, never differences of running sums, and the backward adds up exactly the terms of
each gradient; so strong decay costs no precision and underflow gives 0. A reset is a step of -inf: every a(i, j) across
it is 0.

Why by hand: ordinary autograd spends four fifths of its time in copies, zero fills and the backward of the cumulative
sum. Axes: m = sequence, chunk and group; r head of the group; q, i, j step of the chunk; p, n. States are kept as
(n, r p), so that the heads of a group, which share B and C, are one matrix product.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad


class ChunkLayout(NamedTuple):
    """Sizes of one call and the way between (B, T, ...) and chunks."""

    batch: int
    time: int
    count: int
    chunk: int
    groups: int
    per_group: int

    @classmethod
    def of(cls, x: Tensor, groups: int, chunk: int) -> ChunkLayout:
        batch, time, heads, _ = x.shape
        chunk = min(chunk, time)
        return cls(batch, time, -(-time // chunk), chunk, groups, heads // groups)

    def split(self, tensor: Tensor) -> Tensor:
        """(B,T,...) with all heads or groups in the next axes -> (m,q,rest); missing steps become zeros, which change
        no state."""
        tensor = tensor.reshape(self.batch, self.time, -1)
        missing = self.count * self.chunk - self.time
        if missing:
            tensor = pad(tensor, (0, 0, 0, missing))
        tensor = tensor.reshape(self.batch, self.count, self.chunk, self.groups, -1).transpose(2, 3)
        return tensor.reshape(self.batch * self.count * self.groups, self.chunk, -1)

    def join(self, tensor: Tensor, *shape: int) -> Tensor:
        """(m,q,rest) -> (B,T,*shape)."""
        tensor = tensor.reshape(self.batch, self.count, self.groups, self.chunk, -1).transpose(2, 3)
        return tensor.reshape(self.batch, self.count * self.chunk, *shape)[:, : self.time]

    def heads(self, tensor: Tensor) -> Tensor:
        """(m,q,r p) -> (m r,q,p)"""
        tensor = tensor.view(*tensor.shape[:2], self.per_group, -1).transpose(1, 2)
        return tensor.reshape(-1, self.chunk, tensor.shape[-1])

    def split_steps(self, steps: Tensor) -> Tensor:
        """(B,T,H) -> (m,r,q)"""
        return self.split(steps).transpose(1, 2).contiguous()

    def by_chunk(self, tensor: Tensor) -> Tensor:
        """(m, ...) -> (B, chunk number, G, ...)"""
        return tensor.view(self.batch, self.count, self.groups, *tensor.shape[1:])


def pair_decay(steps: Tensor) -> Tensor:
    """steps (..., Q) -> a (..., Q, Q): a[i, j] = exp(sum of steps j+1..i) for j <= i, 0 for j > i."""
    length = steps.shape[-1]
    sums = steps.new_full((*steps.shape, length), float("-inf"))
    sums.diagonal(dim1=-2, dim2=-1).zero_()
    for i in range(1, length):
        torch.add(sums[..., i - 1, :i], steps[..., i, None], out=sums[..., i, :i])
    return sums.exp_()


def gradient_of_steps(grad_exponent: Tensor) -> Tensor:
    """The gradient (..., Q) of steps from the one of the exponents (..., Q, Q): step s is in the exponent (i, j) iff j
    < s <= i."""
    length = grad_exponent.shape[-1]
    ones = grad_exponent.new_ones(length, length)
    return torch.matmul(grad_exponent, ones.triu(1)).mul_(ones.tril()).sum(-2)


class ChunkedSsd(torch.autograd.Function):
    """(x, delta, A, B, C, D, start, reset, chunk) -> y (B,T,H,P), entering (B, chunk number, G, N, r P).

    x (B,T,H,P), delta (B,T,H), A (H), B and C (B,T,G,N), D (H) or None, start (B,G,N,r P) or None, reset (B,T) or None.
    """

    @staticmethod
    def forward(ctx: Any, x, delta, A, B, C, D, start, reset, chunk):
        at = ChunkLayout.of(x, B.shape[2], chunk)
        steps = delta * A
        if reset is not None:
            steps.masked_fill_(reset[..., None], float("-inf"))
        steps = at.split_steps(steps)
        written, B_m, C_m = at.split(x * delta[..., None]), at.split(B), at.split(C)
        decay = pair_decay(steps)  # m r i j
        from_start = torch.exp(steps.cumsum(-1)).transpose(1, 2)[..., None].contiguous()  # m q r 1

        weights = torch.bmm(C_m, B_m.transpose(1, 2))[:, None] * decay
        y = torch.bmm(weights.view(-1, at.chunk, at.chunk), at.heads(written))
        y = y.view(*decay.shape[:3], -1).transpose(1, 2)  # m q r p
        entering = torch.bmm(
            B_m.transpose(1, 2), _times(written, decay[:, :, -1].transpose(1, 2))
        )  # what a chunk writes
        entering = _carry(at, entering, from_start[:, -1], start, reset is not None)
        read = torch.bmm(C_m, entering.view(-1, *entering.shape[-2:])).view(y.shape).mul_(from_start)
        if reset is not None:
            # The factor is 0 after a document's start, and 0 * inf would carry an old overflow over.
            read.masked_fill_(from_start == 0, 0.0)
        y = at.join(read + y, *x.shape[2:])
        if D is not None:
            y = torch.addcmul(y, x, D[:, None])
        ctx.save_for_backward(x, delta, A, B_m, C_m, D, decay, from_start, entering, read)
        ctx.at, ctx.has_start = at, start is not None
        ctx.set_materialize_grads(False)
        return y.contiguous(), entering

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_entering: Tensor | None):
        x, delta, A, B, C, D, decay, from_start, entering, read = ctx.saved_tensors
        at: ChunkLayout = ctx.at
        grad_y = torch.zeros_like(x) if grad_y is None else grad_y
        written, grad = at.split(x * delta[..., None]), at.split(grad_y)
        entering_m = entering.view(-1, *entering.shape[-2:])

        # Inside the chunk: y = (C B^T * decay) w.
        products = torch.bmm(C, B.transpose(1, 2))[:, None]
        by_head = at.heads(grad)
        weights = (products * decay).view(-1, at.chunk, at.chunk)
        grad_written = torch.bmm(weights.transpose(1, 2), by_head)
        grad_written = grad_written.view(*decay.shape[:3], -1).transpose(1, 2).reshape(grad.shape)
        grad_weights = torch.bmm(by_head, at.heads(written).transpose(1, 2)).view(decay.shape).mul_(decay)
        grad_products = grad_weights.sum(1)
        grad_exponent = grad_weights.mul_(products)
        grad_C = torch.bmm(grad_products, B)
        grad_B = torch.bmm(grad_products.transpose(1, 2), C)

        # Reading the state that enters: y = a(i, -1) S C_i. The exponent of a(i, -1) holds the steps 0..i.
        grad_running = (grad.view(read.shape) * read).sum(-1)  # m q r
        scaled = (grad.view(read.shape) * from_start).view(grad.shape)
        grad_C.baddbmm_(scaled, entering_m.transpose(1, 2))
        grad_states = at.by_chunk(torch.bmm(C.transpose(1, 2), scaled))
        if grad_entering is not None:
            grad_states += grad_entering

        # Between chunks, from the last one: S' = a(last, -1) S + what the chunk writes.
        whole = at.by_chunk(from_start[:, -1])
        grad_whole = torch.zeros_like(whole)
        grad_writes = torch.zeros_like(grad_states)
        heads = (*grad_states.shape[:1], *grad_states.shape[2:4], at.per_group, -1)
        for k in range(at.count - 2, -1, -1):
            later = grad_states[:, k + 1].view(heads)
            grad_writes[:, k] = grad_states[:, k + 1]
            factor = whole[:, k, :, None]
            grad_states[:, k].view(heads).addcmul_(later, factor)
            overlap = torch.linalg.vecdot(later, entering[:, k].view(heads)).sum(2)[..., None] * whole[:, k]
            grad_whole[:, k] = overlap.masked_fill_(whole[:, k] == 0, 0.0)
        grad_running[:, -1] += grad_whole.view(-1, at.per_group)

        # What the chunk writes: sum_j a(last, j) w_j (outer) B_j.
        grad_writes = grad_writes.view(entering_m.shape)
        last = decay[:, :, -1].transpose(1, 2)
        left = _times(written, last)
        grad_B.baddbmm_(left, grad_writes.transpose(1, 2))
        grad_left = torch.bmm(B, grad_writes)
        grad_exponent[:, :, -1] += (grad_left * left).view(read.shape).sum(-1).transpose(1, 2)
        grad_written.add_(_times(grad_left, last))

        # Steps: Delta A, hence Delta and A; then x and Delta from w = Delta x.
        grad_steps = gradient_of_steps(grad_exponent).transpose(1, 2)  # m q r
        grad_steps = grad_steps + grad_running.flip(1).cumsum(1).flip(1)
        grad_steps = at.join(grad_steps, *delta.shape[2:])
        grad_written = at.join(grad_written, *x.shape[2:])
        grad_A = (grad_steps * delta).sum((0, 1))
        grad_delta = (grad_written * x).sum(-1).addcmul_(grad_steps, A)
        grad_x = grad_written * delta[..., None]
        grad_D = None
        if D is not None:
            grad_x.addcmul_(grad_y, D[:, None])
            grad_D = (grad_y * x).sum((0, 1, 3))
        groups = (at.groups, B.shape[-1])
        grad_start = grad_states[:, 0] if ctx.has_start else None
        return (
            grad_x,
            grad_delta,
            grad_A,
            at.join(grad_B, *groups),
            at.join(grad_C, *groups),
            grad_D,
            grad_start,
            None,
            None,
        )


def _times(tensor: Tensor, factors: Tensor) -> Tensor:
    """(m,q,r p) times (m,q,r)."""
    return (tensor.view(*factors.shape, -1) * factors[..., None]).view(tensor.shape)


def _carry(at: ChunkLayout, writes: Tensor, factors: Tensor, start: Tensor | None, resets: bool) -> Tensor:
    """The state entering each chunk, (B,k,G,N,r p), from what each chunk writes (m,n,r p) and its decay (m,r,1)."""
    writes, factors = at.by_chunk(writes), at.by_chunk(factors)[:, :, :, None]
    entering = torch.empty_like(writes)
    heads = (*writes.shape[:1], *writes.shape[2:4], at.per_group, -1)
    entering[:, 0] = 0.0 if start is None else start
    for k in range(at.count - 1):
        state = entering[:, k].view(heads)
        if resets:
            state = state.masked_fill(factors[:, k] == 0, 0.0)
        torch.addcmul(writes[:, k].view(heads), state, factors[:, k], out=entering[:, k + 1].view(heads))
    return entering
