"""The kernels' options as explicit loops over sequences and tokens, differentiable and in float64: what B and C mean in
each of their forms, where documents begin, what padding is, which state is whose."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: The number of each token's document, -1 for padding, row by row.
Numbers = list[list[int]]


class Walked(NamedTuple):
    """Outputs (B, T, ...), the states after every token (B, T, ...), and those of every document."""

    y: Tensor
    states: Tensor
    documents: Tensor


def _walk(numbers: Numbers, starts: Tensor, token, like: Tensor) -> Walked:
    """token(b, t, state) -> y, next state, for every token that is no padding, in order."""
    outputs, states, documents = [], [], []
    for b, row in enumerate(numbers):
        state, current, open_document = starts[b], None, False
        for t, number in enumerate(row):
            if number == -1:
                outputs.append(torch.zeros_like(like[b, t]))
            else:
                if current is not None and number != current:
                    documents.append(state)
                    state = torch.zeros_like(state)
                current, open_document = number, True
                y, state = token(b, t, state)
                outputs.append(y)
            states.append(state)
        if open_document:
            documents.append(state)
    none = starts.new_zeros(0, *starts.shape[1:])
    shape = (len(numbers), len(numbers[0]))
    return Walked(
        torch.stack(outputs).unflatten(0, shape),
        torch.stack(states).unflatten(0, shape),
        torch.stack(documents) if documents else none,
    )


def scan_by_loop(numbers: Numbers, x, delta, A, B, C, D, initial_state) -> Walked:
    """The selective scan, with B (B,T,N), (B,T,G,N) or (E,N), and C alike or with read-outs before its groups."""
    channels = x.shape[2]

    def keys(tensor: Tensor, b: int, t: int) -> Tensor:
        """(..., E, N)"""
        if tensor.ndim == 2:
            return tensor
        here = tensor[b, t]
        if B.ndim == 4:
            return here.repeat_interleave(channels // here.shape[-2], -2)
        return here[..., None, :].expand(*here.shape[:-1], channels, here.shape[-1])

    def token(b: int, t: int, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.exp(delta[b, t][:, None] * A) * h + (delta[b, t] * x[b, t])[:, None] * keys(B, b, t)
        y = (keys(C, b, t) * h).sum(-1)
        skip = D * x[b, t]
        return (y + skip if y.ndim == 1 else torch.stack([y[0] + skip, *y[1:]])), h

    reads = C.shape[2] if C.ndim == (5 if B.ndim == 4 else 4) else None
    like = x if reads is None else x[:, :, None].expand(-1, -1, reads, -1)
    return _walk(numbers, initial_state, token, like)


def ssd_by_loop(numbers: Numbers, x, delta, A, B, C, D, initial_state) -> Walked:
    """The recurrence of Mamba-2, with B and C (B,T,G,N) or (G,N)."""
    heads = x.shape[2]

    def token(b: int, t: int, S: Tensor) -> tuple[Tensor, Tensor]:
        B_t, C_t = (each if each.ndim == 2 else each[b, t] for each in (B, C))
        B_t, C_t = (each.repeat_interleave(heads // len(each), 0) for each in (B_t, C_t))
        written = (delta[b, t][:, None] * x[b, t])[:, :, None] * B_t[:, None]
        S = torch.exp(delta[b, t] * A)[:, None, None] * S + written
        return (S * C_t[:, None]).sum(-1) + D[:, None] * x[b, t], S

    return _walk(numbers, initial_state, token, x)


def conv_by_loop(numbers: Numbers, u, weight, bias, initial_state) -> Walked:
    """The short convolution; the state is the window (E, K-1). With K = L and history it is the long one."""

    def token(b: int, t: int, window: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat((window, u[b, t][:, None]), 1)
        return (seen * weight).sum(1) + bias, seen[:, 1:]

    return _walk(numbers, initial_state, token, u)
