"""What components found by SPD do on prompts: how important each is where, and whether the model works with the rest
off.

The masks of the test are the importances themselves, clipped to 0 and 1: everything is taken away as far as it may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .matrix_function import clean_pass
from .prompts_function import PromptsFunction
from .stochastic_masks import Parameters, importances, masked
from .typed_tensors import cut, ints

#: an importance from which on a component counts as used (the published code's threshold)
USED = 0.1


class OfMatrix(NamedTuple):
    """Of one prompt: mean, largest value and share of tokens above `USED`, (C,) each; l0: used components of a token,
    mean over tokens."""

    mean: Tensor
    largest: Tensor
    used: Tensor
    l0: float


class OfPrompt(NamedTuple):
    """tokens: read. divergence: KL(model || model with masks), nats, mean over tokens; whole: with all masks at 1, what
    the sums of components lack. same: share of tokens whose most probable next token is the model's. matrices: by
    name."""

    tokens: int
    divergence: float
    whole: float
    same: float
    matrices: dict[str, OfMatrix]


@torch.no_grad()
def clipped(function: PromptsFunction, parameters: Parameters, examples: Tensor) -> dict[str, Tensor]:
    """Importances between 0 and 1, (batch, T, C) of each matrix; what padding holds means nothing."""
    raw = importances(function, parameters, clean_pass(function, examples))
    return {name: value.clamp(0.0, 1.0) for name, value in raw.items()}


@torch.no_grad()
def on_prompts(function: PromptsFunction, parameters: Parameters, examples: Sequence[int]) -> list[OfPrompt | None]:
    """What components do on each of these prompts, which are read together; None where the model is not finite."""
    chosen = torch.tensor(list(examples))
    mask = function.counted(chosen)
    clean = clean_pass(function, chosen)
    g = {name: raw.clamp(0.0, 1.0) for name, raw in importances(function, parameters, clean).items()}
    layers = {n: masked(m, parameters, n, g[n]) for n, m in function.matrices.items()}
    full = {n: masked(m, parameters, n, torch.ones_like(g[n])) for n, m in function.matrices.items()}
    lengths = ints(mask.sum(1))
    wanted = cut(clean.outputs, lengths)
    sparse, whole = (cut(function(chosen, each), lengths) for each in (layers, full))
    found: list[OfPrompt | None] = []
    for row, (target, kept, sums) in enumerate(zip(wanted, sparse, whole, strict=True)):
        if not bool(torch.isfinite(target).all()):
            found.append(None)
            continue
        of: dict[str, OfMatrix] = {}
        for name, value in g.items():
            real = value[row][mask[row]]
            used = (real > USED).to(real)
            of[name] = OfMatrix(real.mean(0), real.amax(0), used.mean(0), float(used.sum(1).mean()))
        same = float((target.argmax(-1) == kept.argmax(-1)).double().mean())
        found.append(OfPrompt(len(target), _kl(target, kept), _kl(target, sums), same, of))
    return found


def _kl(target: Tensor, outputs: Tensor) -> float:
    wanted, said = (torch.log_softmax(x.double(), -1) for x in (target, outputs))
    return float((wanted.exp() * (wanted - said)).sum(-1).mean())
