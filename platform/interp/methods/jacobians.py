"""How much each token's value at one site depends on each earlier token's value at another: sizes of Jacobians.

    J(t, s) = d target_t / d source_s,     |J(t, s)|_F^2 = sum over directions v of a basis of |v^T J(t, s)|^2

by reverse mode: v^T J(t, s) for one t, one v and all s is one row of a batch, so that many go through the model and
back together. With every direction of a basis that is exact. For wide sites it is the mean over P random vectors
(entries +1 and -1) times nothing: E |v^T J|^2 = |J|_F^2, without bias, with a relative standard deviation of at most
sqrt(2 / P) (Hutchinson 1990); of a mean over many pairs of tokens much less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .corruption import prompt_seed
from .site_gradients import graph_of

if TYPE_CHECKING:
    from ...models import LanguageModel

_TOKENS = 4096  # that go through the model and back together


def directions_of(width: int, exact_up_to: int, count: int, id_: str, seed: int) -> tuple[Tensor, bool]:
    """Vectors v (P, width) in float64 scaled so that sum |v^T J|^2 is |J|_F^2 or its estimate, and whether that is
    exact: the basis up to a width of `exact_up_to`, else `count` random sign vectors, by seed and prompt."""
    if width <= exact_up_to:
        return torch.eye(width, dtype=torch.float64), True
    generator = torch.Generator().manual_seed(prompt_seed(seed, id_))
    signs = torch.randint(0, 2, (count, width), generator=generator, dtype=torch.float64) * 2 - 1
    return signs * count**-0.5, False


@torch.inference_mode(False)
def squared_jacobians(
    model: LanguageModel,
    tokens: Sequence[int],
    spans: Sequence[tuple[str, Sequence[str]]],
    positions: Sequence[int],
    directions: Tensor,
) -> list[dict[str, Tensor]]:
    """For each span (target site, source sites): |J(t, s)|_F^2 by source, (n, T) in float64 for the n `positions` t.

    tokens (T,): of one text. directions (P, C): see `directions_of`. Entries s > t are 0.
    """
    text = torch.tensor(list(tokens), device=model.device)
    names = list(dict.fromkeys(name for target, sources in spans for name in (target, *sources)))
    found = [{s: torch.zeros(len(positions), len(text), dtype=torch.float64) for s in sources} for _, sources in spans]
    pairs = [(i, v) for i in sorted(range(len(positions)), key=positions.__getitem__) for v in range(len(directions))]
    while pairs:
        rows, width = _next(pairs, positions)
        pairs = pairs[len(rows) :]
        number, at = torch.arange(len(rows)), torch.tensor([positions[i] for i, _ in rows])
        acts = graph_of(model, text[:width].expand(len(rows), -1).contiguous(), names)
        for (target, sources), total in zip(spans, found, strict=True):
            values = acts[target][number, at]
            chosen = directions[[v for _, v in rows]].to(values)
            inputs = [acts[source] for source in sources]
            slopes = torch.autograd.grad((values * chosen).sum(), inputs, retain_graph=True)
            for source, slope in zip(sources, slopes, strict=True):
                squares = slope.detach().double().square().sum(2).cpu()
                total[source][:, :width].index_add_(0, torch.tensor([i for i, _ in rows]), squares)
    return found


def _next(pairs: Sequence[tuple[int, int]], positions: Sequence[int]) -> tuple[list[tuple[int, int]], int]:
    """The first pairs that keep to `_TOKENS`, at least one, and the tokens that they need: those up to the last t."""
    rows: list[tuple[int, int]] = []
    for pair in pairs:
        width = positions[pair[0]] + 1
        if rows and (len(rows) + 1) * width > _TOKENS:
            break
        rows.append(pair)
    return rows, positions[rows[-1][0]] + 1
