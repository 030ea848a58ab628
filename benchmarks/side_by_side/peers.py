"""Our model and transformers' with the same weights, and the matrix products that neither can do without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
import torch.nn.functional as F
from mplat.models import LanguageModel, ModelConfig, build
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

SHAPES = {
    "tiny mamba": ModelConfig("mamba", vocab_size=1024, d_model=128, n_layers=4, state_size=16),
    "tiny mamba2": ModelConfig("mamba2", vocab_size=1024, d_model=128, n_layers=4, state_size=64, head_dim=32),
    "mamba-130m": ModelConfig("mamba", vocab_size=50280, d_model=768, n_layers=24),
    "mamba2-130m": ModelConfig("mamba2", vocab_size=50288, d_model=768, n_layers=24, state_size=128, head_dim=64),
}


def pair(shape: str) -> tuple[LanguageModel, nn.Module]:
    """Random weights, twice: ours, and ours as transformers reads them from the folder that we save."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    ours = build(SHAPES[shape], seed=0)
    with tempfile.TemporaryDirectory() as folder:
        theirs = AutoModelForCausalLM.from_pretrained(ours.save(folder))
    return ours.eval(), theirs.eval()


def tokens_of(shape: str, batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(2, SHAPES[shape].vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


def products(model: LanguageModel, batch: int, time: int, *, backward: bool = False) -> Callable[[], object]:
    """The matrix products of a forward pass alone (three times as many with `backward`), on numbers that are there."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    weights = [layer.weight.detach() for layer in layers]
    if model.lm_head is None:
        weights.append(model.backbone.embeddings.weight.detach())
    inputs = {w.shape[1]: torch.randn(batch * time, w.shape[1]) for w in weights}
    outputs = {w.shape[0]: torch.randn(batch * time, w.shape[0]) for w in weights} if backward else {}

    def run() -> None:
        for weight in weights:
            x = inputs[weight.shape[1]]
            F.linear(x, weight)
            if backward:
                grad = outputs[weight.shape[0]]
                torch.mm(grad, weight)
                torch.mm(grad.T, x)

    return run


def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    out = model(tokens)
    return out if isinstance(out, Tensor) else out.logits
