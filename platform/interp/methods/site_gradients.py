"""A forward pass whose sites can be differentiated by, and the sizes of an outcome's gradient at each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...models.access.edits import Add, Edit
from ...models.parts.norms import wide
from .typed_tensors import lengths

if TYPE_CHECKING:
    from ...models import LanguageModel


@torch.inference_mode(False)
@torch.enable_grad()
def graph_of(model: LanguageModel, tokens: Tensor, names: Sequence[str]) -> Mapping[str, Tensor]:
    """The named sites (R, T, ...) with their history, of tokens (R, T) without padding."""
    # a start that requires a gradient, so that there is a graph even where no parameter requires one
    start = torch.zeros(1, dtype=wide(model.dtype), device=model.device, requires_grad=True)
    with model.edit(Add("embed", start)), model.capture(*names, gradients=True) as acts:
        model(tokens, phase="prefill", last_only=True)
    return {name: acts[name] for name in names}


@torch.inference_mode(False)
@torch.enable_grad()
def gradient_sizes(
    model: LanguageModel, tokens: Tensor, mask: Tensor, answers: Tensor, sites: Mapping[str, int],
    edits: Sequence[Edit] = (),
) -> dict[str, Tensor]:  # fmt: skip
    """|dM/dx_t| (R, T) in float64 of each site x (R, T, width), by name, of which `sites` says the width; M is the
    log-probability of `answers` (R,) after each row's last token. Rows do not meet, so each has its own.

    Zeros are added to the sites and differentiated by: what a capture shows of padded rows is a copy that nothing is
    computed from.
    """
    dtype, (rows, length) = wide(model.dtype), tokens.shape
    zeros = {
        name: torch.zeros(rows, length, width, dtype=dtype, device=model.device, requires_grad=True)
        for name, width in sites.items()
    }
    with model.edit(*edits, *(Add(name, zero) for name, zero in zeros.items())):
        logits = model(tokens, mask, phase="prefill", last_only=True)[:, 0]
    chosen = logits.double().log_softmax(-1).gather(1, answers[:, None]).sum()
    slopes = torch.autograd.grad(chosen, list(zeros.values()))
    return {name: lengths(slope.double()) for name, slope in zip(zeros, slopes, strict=True)}
