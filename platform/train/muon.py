"""Muon for the matrices of blocks and AdamW for everything else, as one optimizer.

    M <- b M + (1 - b) G;   O = orthogonal((1 - b) G + b M);   W <- (1 - r w) W - 0.2 r sqrt(max(rows, columns)) O

G: gradient, b: momentum, r: learning rate, w: weight decay. O is near U V^T of the singular value decomposition, by
five steps of a Newton-Schulz iteration (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").
The factor gives updates the size of AdamW's (Liu et al., arXiv 2502.16982, section 2.2), so that one rate serves both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
_STEPS = 5
_QUINTIC = 3.4445, -4.7750, 2.0315  # a x + b x^3 + c x^5: lifts small singular values fast, ends between 0.7 and 1.2


class Muon(torch.optim.AdamW):
    """AdamW whose groups with `muon: True` hold matrices, which are updated as the module says."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all weights that have a gradient."""
        assert closure is None
        held = [(p, p.grad, group) for group in self.param_groups if group.get("muon") for p in group["params"]]
        for parameter, _, _ in held:
            parameter.grad = None  # AdamW passes over these
        super().step()
        for parameter, grad, group in held:
            parameter.grad = grad
            if grad is not None:
                self._update(parameter, grad, group["lr"], group["weight_decay"])

    def _update(self, weight: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(weight)}
        state["step"] += 1
        momentum = state["momentum"].lerp_(grad, 1 - MOMENTUM)
        update = orthogonal(grad.lerp(momentum, MOMENTUM))
        weight.mul_(1 - rate * decay).add_(update, alpha=-0.2 * rate * max(weight.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix (m, n) with the singular vectors of `matrix` and singular values near 1; zeros of zeros."""
    a, b, c = _QUINTIC
    x = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-12)
    for _ in range(_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if len(matrix) > matrix.shape[1] else x
