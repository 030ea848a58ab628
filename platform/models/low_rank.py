"""Low-rank changes of a model's projections (LoRA, Hu et al. 2021, arXiv 2106.09685), for training a few numbers.

Every linear layer W (out, in) of a mixer becomes W + alpha / r B A, with A (r, in) drawn from a normal of variance
1 / in and B (out, r) zero, so that the model is what it was until the first step. All else is frozen. The change stands
in the weight itself (a parametrization of torch) and not around the layer, because mixers read `in_proj.weight`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..core.errors import InputError

if TYPE_CHECKING:
    from .model import LanguageModel


class LowRank(nn.Module):
    """The change of one weight (out, in): `a` (r, in), `b` (out, r) and the factor alpha / r."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        a = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))
        self.register_buffer("scale", weight.new_tensor(alpha / rank))

    scale: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        return changed(weight, self.a, self.b, self.scale)


def changed(weight: Tensor, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """weight + scale B A, of the same shape (out, in)."""
    return weight + (scale * (b @ a)).to(weight.dtype)


def projections(model: LanguageModel) -> dict[str, nn.Linear]:
    """Name of the weight -> linear layer, for all linear layers in the mixers."""
    found: dict[str, nn.Linear] = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for block in model.blocks:
        for module in block.mixer.modules():
            if isinstance(module, nn.Linear):
                found[names[id(module.weight)]] = module
    return found


def attach(model: LanguageModel, rank: int, alpha: float, seed: int) -> LanguageModel:
    """Freezes the model and gives every projection a change that is learned; returns the same model."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for layer in projections(model).values():
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha, generator))
    return model


def merge(model: nn.Module) -> None:
    """Makes the changes part of the weights, whose names are then those of the model without them."""
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module, "weight"):
            continue
        changes = cast("nn.ModuleDict", module.parametrizations)["weight"].children()
        if any(isinstance(change, LowRank) for change in changes):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def merged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a checkpoint with the changes in them, by the names of a model without; others as they are.

    Raises InputError where a part of a change is missing.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        prefix, of_projection, rest = name.partition(".parametrizations.weight.")
        if not of_projection:
            found[name] = tensor
        elif rest == "original":
            parts = [weights.get(f"{prefix}.parametrizations.weight.0.{part}") for part in ("a", "b", "scale")]
            a, b, scale = parts
            if a is None or b is None or scale is None:
                raise InputError(f"the weights of {prefix} have no whole low-rank change; take another checkpoint")
            found[f"{prefix}.weight"] = changed(tensor, a, b, scale)
    return found
