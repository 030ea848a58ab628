"""What the weights themselves say along a training: their size, and in how many directions they work.

- sum of squares of the weights that weight decay acts on (a tied head once): it pulls them down once the loss no longer
  holds them up;
- effective rank of a matrix: exp of the entropy of its singular values over their sum (Roy and Vetterli 2007): n for n
  equal ones, 1 for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UsageError

if TYPE_CHECKING:
    from ...models import LanguageModel


@torch.no_grad()
def sum_of_squares(model: LanguageModel) -> float:
    """Of the parameters in the groups that decay (`LanguageModel.param_groups`), in float64."""
    decaying = [group["params"] for group in model.param_groups(1.0) if group["weight_decay"]]
    return sum(float(p.detach().double().square().sum()) for parameters in decaying for p in parameters)


@torch.no_grad()
def effective_rank(matrix: Tensor) -> float | None:
    """Of a matrix (m, n), float64; None where it is all zeros. Raises UsageError for what is no matrix."""
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise UsageError(f"an effective rank is that of a matrix, not of shape {tuple(matrix.shape)}")
    values = np.linalg.svd(matrix.detach().double().cpu().numpy(), compute_uv=False)
    if not values.any():
        return None
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def matrices(model: LanguageModel, layers: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    """The weight matrices of these blocks by name, (out, in); convolutions and rates of decay are none."""
    for layer in layers:
        for name, parameter in model.blocks[layer].named_parameters():
            if parameter.ndim == 2 and name.endswith("weight") and min(parameter.shape) > 1:
                yield f"blocks.{layer}.{name}", parameter
