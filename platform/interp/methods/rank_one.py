"""Rank-one components U[:, c] V[c, :] of a matrix (out, in): where they start, how well they sum up, how alike two sets
are.

U (out, C), V (C, in). A sum of C components can be any matrix of rank C, so C is at least the smaller side where the
matrix is to be kept. Cosines are those of whole matrices, <A, B> / (|A| |B|) with Frobenius' norms, so for components
the product of the cosines of both vectors. They are stricter than a comparison of columns in a narrow space: twenty
random directions in a plane always have one close to any column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .typed_tensors import column_lengths, lengths, pseudo_inverse

_TINY = 1e-30


class RankOnes(NamedTuple):
    """U (out, C) and V (C, in)."""

    U: Tensor
    V: Tensor

    @property
    def norms(self) -> Tensor:
        """Frobenius norm (C,) of each component."""
        return column_lengths(self.U) * lengths(self.V)

    def only(self, chosen: Tensor) -> RankOnes:
        """Those of the numbers, or of the mask, `chosen`."""
        return RankOnes(self.U[:, chosen], self.V[chosen])


def start(weight: Tensor, count: int, generator: torch.Generator) -> RankOnes:
    """`count` components whose sum is `weight` (out, in) where the count allows, else the nearest for these V.

    The vectors of the longer-than-needed side are random directions, those of the other their least-squares complement:
    where training with the faithfulness alone from a random start leads (the warm-up of the published code), without
    the steps. Both vectors of a component have equal length.
    """
    rows, columns = weight.shape
    if count >= columns or count < rows:
        right = _directions(count, columns, generator).to(weight)
        left = weight @ pseudo_inverse(right)
    else:
        left = _directions(count, rows, generator).to(weight).T
        right = pseudo_inverse(left) @ weight
    balance = (lengths(right).clamp_min(_TINY) / column_lengths(left).clamp_min(_TINY)).sqrt()
    return RankOnes((left * balance).contiguous(), (right / balance[:, None]).contiguous())


def random_ones(like: RankOnes, generator: torch.Generator) -> RankOnes:
    """A control: as many components of the same norms in random directions."""
    norms = like.norms
    rows, count = like.U.shape
    left = _directions(count, rows, generator).to(like.U).T
    return RankOnes(left * norms, _directions(count, like.V.shape[1], generator).to(like.V))


def squared_error(weight: Tensor, ones: RankOnes) -> Tensor:
    """|W - U V|^2, Frobenius."""
    return ((weight - ones.U @ ones.V) ** 2).sum()


def faithfulness(pairs: Mapping[str, tuple[Tensor, RankOnes]]) -> Tensor:
    """Sum over matrices of |W - U V|^2, over the number of their entries (SPD, arXiv 2506.20790, section 2)."""
    errors = [squared_error(weight, ones) for weight, ones in pairs.values()]
    return torch.stack(errors).sum() / sum(weight.numel() for weight, _ in pairs.values())


def cosines(first: RankOnes, second: RankOnes) -> Tensor:
    """Cosine (C, C') of every component with every component of another set."""
    left = _unit(first.U, 0).T @ _unit(second.U, 0)
    return left * (_unit(first.V, 1) @ _unit(second.V, 1).T)


def cosines_with(matrices: Tensor, ones: RankOnes) -> Tensor:
    """Cosine (M, C) of each of the matrices (M, out, in) with each component; 0 for a matrix of zeros."""
    found = torch.einsum("moi,oc,ci->mc", matrices, _unit(ones.U, 0), _unit(ones.V, 1))
    return found / lengths(matrices.flatten(1)).clamp_min(_TINY)[:, None]


class Recovery(NamedTuple):
    """Over the true mechanisms: mean of the best cosine, and mean ratio of the norm of the component that has it to the
    mechanism's own (MMCS and ML2R of the paper, of whole matrices)."""

    mean_max_cosine: float
    mean_norm_ratio: float


def recovery(mechanisms: Tensor, ones: RankOnes) -> Recovery:
    """How well components hold the mechanisms (M, out, in)."""
    best, which = cosines_with(mechanisms, ones).max(1)
    ratio = ones.norms[which] / lengths(mechanisms.flatten(1))
    return Recovery(float(best.mean()), float(ratio.mean()))


def column_recovery(weight: Tensor, components: Tensor) -> Recovery:
    """MMCS and ML2R as the papers define them, over the columns of `weight` (out, in): for each the best cosine with
    the same column of a component (C, out, in), and the ratio of their lengths."""
    sizes = column_lengths(components)
    dots = torch.einsum("oi,coi->ci", weight, components)
    own = column_lengths(weight)
    best, which = (dots / (sizes * own).clamp_min(_TINY)).max(0)
    ratio = sizes.gather(0, which[None])[0] / own
    return Recovery(float(best.mean()), float(ratio.mean()))


def matrices_of(ones: RankOnes) -> Tensor:
    """The components as matrices (C, out, in)."""
    return torch.einsum("oc,ci->coi", ones.U, ones.V)


def _directions(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Unit vectors (count, size), drawn on the CPU in float64, so that the dtype does not change them."""
    drawn = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return drawn / lengths(drawn)[:, None]


def _unit(x: Tensor, dim: int) -> Tensor:
    return x / ((x**2).sum(dim, keepdim=True).sqrt()).clamp_min(_TINY)
