"""Cross-entropy from what the head reads, without a tensor of all logits.

Logits are made for a few tokens at a time, turned into the loss and its gradient, and dropped: of (tokens, V) numbers
only a chunk is ever there. The gradient is computed on the way forward, where the logits are at hand, so that the three
matrix products are those of the plain loss (compare Wijmans et al., arXiv 2411.09009). Sums over chunks are float32, in
float64 models float64.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: logits that are there at once: 64 MiB in float32
CHUNK = 2**24


def chunked_loss(
    normed: Tensor, head: tuple[Tensor, float], targets: Tensor, weights: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """sum(weights * nll), and nll (B, T), which carries no gradient, of targets (B, T).

    normed (B, T, d). head: W (V, d) and c with logits = c W normed. weights (B, T). chunk: logits at once.
    """
    matrix, scale = head
    if not torch.is_grad_enabled():  # the function below cannot see that itself
        normed, matrix = normed.detach(), matrix.detach()
    rows = max(1, chunk // len(matrix))
    flat = normed.flatten(0, 1), matrix, scale, targets.flatten(), weights.flatten(), rows
    total, nll = cast("tuple[Tensor, Tensor]", _ChunkedLoss.apply(*flat))
    return total, nll.view(targets.shape)


class _ChunkedLoss(torch.autograd.Function):
    """normed (n, d), matrix (V, d), scale, targets (n), weights (n), rows -> sum(weights * nll), nll (n)."""

    @staticmethod
    def forward(
        ctx: Any, normed: Tensor, matrix: Tensor, scale: float, targets: Tensor, weights: Tensor, rows: int
    ) -> tuple[Tensor, Tensor]:
        device = normed.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else matrix.dtype
        wide = torch.promote_types(normed.dtype, torch.float32)
        needs_normed, needs_matrix, *_ = ctx.needs_input_grad
        grad_normed = torch.empty_like(normed) if needs_normed else None
        grad_matrix = torch.zeros_like(matrix, dtype=wide) if needs_matrix else None
        nll = normed.new_empty(len(normed), dtype=wide)
        total = normed.new_zeros((), dtype=wide)
        with torch.autocast(device, enabled=False):
            W = matrix.to(dtype)
            for start in range(0, len(normed), rows):
                part = slice(start, start + rows)
                x, target, weight = normed[part].to(dtype), targets[part, None], weights[part].to(wide)
                scores = torch.log_softmax((x @ W.t()).to(wide).mul_(scale), -1)
                nll[part] = -scores.gather(1, target)[:, 0]
                total += torch.dot(nll[part], weight)
                if grad_normed is None and grad_matrix is None:
                    continue
                grad = scores.exp_()  # the softmax; minus one at the target
                grad.scatter_add_(1, target, -torch.ones_like(target, dtype=wide))
                grad = grad.mul_((scale * weight)[:, None]).to(dtype)
                if grad_normed is not None:
                    grad_normed[part] = grad @ W
                if grad_matrix is not None:
                    _add_product(grad_matrix, grad.t(), x)
        ctx.save_for_backward(grad_normed, None if grad_matrix is None else grad_matrix.to(matrix.dtype))
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # in place: of a large vocabulary a copy is as large as the embeddings. Torch refuses a second way back itself.
        grads = (None if grad is None else grad.mul_(grad_total.to(grad.dtype)) for grad in ctx.saved_tensors)
        return (*grads, None, None, None, None)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, without a second tensor of that size where all are of one type."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
