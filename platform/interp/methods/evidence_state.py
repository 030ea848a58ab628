"""What a span of tokens writes into a recurrent state, and what later tokens leave of it.

    h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t x_t        (`recurrences`)

The write of token t is Delta_t B_t x_t, an outer product over channels and coordinates; its size is its Frobenius norm.
A span's own state is what its writes alone have made of an empty state behind its last token. Each coordinate of it
decays by S, `decays.survival`, so that after k tokens |S_k h| / |h| of its norm is left. That weighs coordinates by
what the span wrote into them, which the mean of S over coordinates does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .decays import survival
from .evidence import Span
from .recurrences import LayerRecurrence, Scan


def write_sizes(scan: Scan) -> Tensor:
    """|Delta_t B_t x_t| (T,) of the first row of a scan, float64."""
    units = torch.arange(scan.units, device=scan.x.device)
    x = torch.unflatten(scan.x[0].double(), -1, (scan.units, -1))  # (T, U, P)
    steps = (scan.delta[0].double()[..., None] * x).square().sum(-1)
    keys = scan.B[0].double().square().sum(-1)[:, scan.group_of(units)]  # (T, U)
    return (steps * keys).sum(-1).sqrt()


def written(scan: Scan, A: Tensor, span: Span) -> Tensor:
    """The state (U, P, N), complex128, that the tokens of `span` alone have made behind its last one. A (U, M)."""
    x = torch.unflatten(scan.x[0].cpu(), -1, (scan.units, -1))
    delta, group = scan.delta[0].cpu(), scan.group_of(torch.arange(scan.units))
    B = scan.B[0].cpu()
    state = torch.zeros(*x.shape[1:], B.shape[-1], dtype=torch.complex128)
    for t in range(*span):
        decay = torch.exp(delta[t].to(A.dtype)[:, None] * A)[:, None]
        write = (delta[t][:, None] * x[t]).double()[..., None] * B[t, group].double()[:, None]
        state = decay * state + write
    return state


def left_by_token(decay: LayerRecurrence, scan: Scan, span: Span) -> tuple[Tensor, Tensor | None]:
    """(S, W), each (T - stop + 1,): what 0, 1, ... tokens after `span` leave of a coordinate, in the mean over all of
    them; and of the norm of what the span itself wrote, None where it wrote nothing."""
    behind = scan.delta[0, span[1] :].cpu().flip(0)  # `survival` counts tokens from its last row on
    S = survival(decay.rate, behind)  # (k + 1, U, M)
    size = written(scan, decay.A, span).abs().square().sum(1)  # (U, N)
    if S.shape[2] == 1:
        size = size.sum(1, keepdim=True)
    total = size.sum()
    kept = (S.square() * size).sum((1, 2)).sqrt() / total.sqrt() if float(total) > 0 else None
    return S.flatten(1).mean(1), kept


def mean_left(decay: LayerRecurrence, scan: Scan, stops: Sequence[int], tokens: int) -> list[float]:
    """The mean of S over coordinates after `tokens` tokens behind each of `stops`."""
    delta = scan.delta[0].double().cpu()
    total = torch.cat([delta.new_zeros(1, delta.shape[1]), delta.cumsum(0)])
    spent = total[[stop + tokens for stop in stops]] - total[list(stops)]
    return [float(torch.exp(-one[:, None] * decay.rate).mean()) for one in spent]
