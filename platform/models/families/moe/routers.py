"""Routers: from scores to the experts of each token and the weights of what they say.

    switch_softmax   p = softmax(scores); the best expert, weighted by its p (Fedus et al., arXiv 2101.03961, eq. 1-2)
    sigmoid_top1     p = sigmoid(scores); the best expert, weighted by its p (BlackMamba at inference, arXiv 2402.01771)
    sinkhorn         as sigmoid_top1, but in training the expert is that of a balanced assignment (`sinkhorn`)
    topk             p = softmax(scores); the k best experts, weighted by the softmax over their k scores

Outside training a token's experts and weights depend on that token alone. Experts are chosen by p, not by the scores,
so that an edit of either is felt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .sinkhorn import sinkhorn

ROUTERS = ("switch_softmax", "sigmoid_top1", "sinkhorn", "topk")


def probabilities(scores: Tensor, router: str) -> Tensor:
    """Each expert's p (..., E) for scores (..., E); they sum to 1 only where they are a softmax."""
    return torch.sigmoid(scores) if router in ("sigmoid_top1", "sinkhorn") else torch.softmax(scores, -1)


def choose(p: Tensor, scores: Tensor, router: str, k: int, *, training: bool, real: Tensor | None) -> Tensor:
    """The experts (N, k) of each token, the best first; of equal ones the first. What stands at padding means nothing.

    p, scores (N, E). real (N,): False at padding.
    """
    if training and router == "sinkhorn":
        plan = torch.zeros_like(scores)
        rows = slice(None) if real is None else real
        plan[rows] = sinkhorn(scores.detach()[rows])
        return plan.argmax(-1, keepdim=True)
    return p.argmax(-1, keepdim=True) if k == 1 else p.topk(k, -1).indices


def weigh(p: Tensor, index: Tensor, router: str) -> Tensor:
    """The weight (N, k) of each chosen expert.

    For topk, p of the k best divided by their sum is the softmax over their scores.
    """
    chosen = p.gather(-1, index)
    return chosen / chosen.sum(-1, keepdim=True) if router == "topk" else chosen
