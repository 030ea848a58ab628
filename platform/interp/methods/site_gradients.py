"""A forward pass whose sites can be differentiated by, and the sizes of an outcome's gradient at each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...models.access.edits import Add, Edit
from ...models.parts.norms import wide

if TYPE_CHECKING:
    from ...models import LanguageModel


@torch.inference_mode(False)
@torch.enable_grad()
def graph_of(
    model: LanguageModel,
    tokens: Tensor,
    names: Sequence[str],
    mask: Tensor | None = None,
    *,
    edits: Sequence[Edit] = (),
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Logits (B, V) at each row's last token, and the named sites (B, T, ...) with their history; tokens (B, T)."""
    # a start that requires a gradient, so that there is a graph even where no parameter requires one
    start = torch.zeros(1, dtype=wide(model.dtype), device=model.device, requires_grad=True)
    with model.edit(Add("embed", start), *edits), model.capture(*names, gradients=True) as acts:
        logits = model(tokens, mask, phase="prefill", last_only=True)[:, 0]
    return logits, {name: acts[name] for name in names}


@torch.inference_mode(False)
def gradient_sizes(
    model: LanguageModel, tokens: Tensor, mask: Tensor, answers: Tensor, names: Sequence[str],
    edits: Sequence[Edit] = (),
) -> dict[str, Tensor]:  # fmt: skip
    """|dM/dx_t| (B, T) in float64 of each named site x (B, T, C), M being the log-probability of `answers` (B,) after
    each row's last token. Rows of a batch do not meet, so each has its own."""
    logits, acts = graph_of(model, tokens, names, mask, edits=edits)
    chosen = logits.double().log_softmax(-1).gather(1, answers[:, None]).sum()
    slopes = torch.autograd.grad(chosen, list(acts.values()), allow_unused=True, materialize_grads=True)
    return {name: slope.double().flatten(2).norm(dim=2) for name, slope in zip(acts, slopes, strict=True)}
