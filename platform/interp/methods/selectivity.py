"""How one recurrence selects in one prompt: what Delta, B and C do at the fact's tokens and at the last one.

The last token q reads what token j wrote, per unit u, with the weight

    alpha[j, u] = sum_n C_q[n] exp(-|A[u, n]| sum_{r=j+1..q} Delta_r[u]) w(Delta_j[u]) B_j[n]

(its row of hidden attention, Ali et al., arXiv 2403.01590), where w is Delta itself, or 1 - exp(-Delta) for averaging
recurrences. Pure functions in float64 of one prompt's delta (T, U) and B, C (T, G, N), T ending with the token q.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .decays import survival
from .recurrences import LayerRecurrence
from .typed_tensors import lengths

#: name -> what it is; those of a prompt and a recurrence
FEATURES = {
    "delta_fact": "mean Delta over the fact's tokens and all units",
    "delta_last": "mean Delta over all units at the last token",
    "delta_fact_relative": "natural logarithm of delta_fact over the mean Delta of all tokens",
    "B_fact": "mean length of B over the fact's tokens and groups",
    "C_last": "mean length of C at the last token over groups",
    "write_read_cosine": "largest cosine of a fact token's B with the last token's C, mean over groups",
    "survival": "share that the tokens after the fact leave of what it wrote, mean over the state's coordinates",
    "read_share": "share of the last token's |read weights| that falls on the fact's tokens",
}
#: parts of a prompt over which a unit's Delta is averaged
PARTS = ("before", "fact", "after", "last")
_CELLS_AT_ONCE = 2**22


def features(decay: LayerRecurrence, delta: Tensor, B: Tensor, C: Tensor, fact: tuple[int, int]) -> dict[str, float]:
    """`FEATURES` of a prompt whose tokens fact[0] to fact[1] - 1 state the answer, before its last token."""
    delta, write, read = delta.double(), B.double(), C.double()
    inside = slice(*fact)
    weights = read_weights(decay, delta, write, read).abs().sum(1)
    cosine = torch.cosine_similarity(write[inside], read[-1:], -1)  # (fact tokens, G); 0 where one is a zero vector
    left = survival(decay.rate, delta[fact[1] :])[-1]
    at_fact, total = delta[inside].mean(), weights.sum()
    values = {
        "delta_fact": at_fact,
        "delta_last": delta[-1].mean(),
        "delta_fact_relative": (at_fact / delta.mean()).log(),
        "B_fact": lengths(write[inside]).mean(),
        "C_last": lengths(read[-1]).mean(),
        "write_read_cosine": cosine.max(0).values.mean(),
        "survival": left.mean(),
        "read_share": weights[inside].sum() / total,
    }
    assert values.keys() == FEATURES.keys()
    return {name: float(value) for name, value in values.items()}


def read_weights(decay: LayerRecurrence, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """alpha (T, U): with what weight the last token reads what each token wrote."""
    length, units = delta.shape
    group = torch.arange(units) // (units // B.shape[1])
    ahead = delta.flip(0).cumsum(0).flip(0) - delta  # of the tokens after each
    match = (B * C[-1]).double()  # (T, G, N)
    rate = decay.rate
    if rate.shape[1] == 1:
        return decay.of.written(delta) * torch.exp(-ahead * rate[:, 0]) * match.sum(-1)[:, group]
    parts: list[Tensor] = []
    for rows in torch.split(torch.arange(length), max(1, _CELLS_AT_ONCE // rate.numel())):
        left = torch.exp(-ahead[rows, :, None] * rate)
        parts.append(torch.einsum("tun,tun->tu", left, match[rows][:, group]))
    return decay.of.written(delta) * torch.cat(parts)


def delta_profile(delta: Tensor, fact: tuple[int, int]) -> Tensor:
    """Mean of log Delta (len(PARTS), U) in each part of a prompt, less that over all tokens; NaN for an empty part."""
    log = delta.double().log()
    last = len(log) - 1
    parts = (log[: fact[0]], log[slice(*fact)], log[fact[1] : last], log[last:])
    return torch.stack([part.mean(0) for part in parts]) - log.mean(0)
