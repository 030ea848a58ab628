"""`build`: a new model, with weights drawn from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch

from ..core.errors import UsageError, suggest
from .block import Block
from .memory import require_weights
from .model import LanguageModel
from .model_config import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def build(
    config: ModelConfig,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    tokenizer: PreTrainedTokenizerFast | None = None,
    init: Literal["reference", "recall"] = "reference",
    embedding_std: float = 0.02,
) -> LanguageModel:
    """A model with weights drawn from `seed` (on device "meta": shapes only).

    Embeddings N(0, embedding_std); linear and convolution layers as PyTorch's default; out_proj scaled by 1/sqrt(L);
    see the mixers for A, D and Delta. The same seed gives the same weights whatever the dtype and device. With `init`
    "recall" every layer but the first starts as `Mixer.reset_to_recall` says; the first is left to gather what was just
    read.

    Raises UsageError for an unknown `init`, an architecture that has no such start, or a model that is larger than this
    machine's memory, before any of it is allocated.
    """
    if init not in ("reference", "recall"):
        raise UsageError(f"unknown initialisation {init!r}; {suggest(init, ('reference', 'recall'))}")
    if str(device) != "meta":
        require_weights(config)
    with torch.device("meta"):
        model = LanguageModel(config, tokenizer)
    if str(device) == "meta":
        return model.to(dtype)
    require_weights(config, model.n_parameters)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (model.backbone.embeddings.weight, None if model.lm_head is None else model.lm_head.weight):
            if weight is not None:
                weight.copy_(torch.empty_like(weight).normal_(0.0, embedding_std, generator=generator))
        for block in cast(list[Block], list(model.backbone.layers)):
            block.norm.reset()
            block.mixer.reset_parameters(generator)
            if block.feed_forward is not None and block.norm_2 is not None:
                block.norm_2.reset()
                block.feed_forward.reset_parameters(generator)
        if init == "recall":
            for block in cast(list[Block], list(model.backbone.layers)[1:]):
                block.mixer.reset_to_recall(generator)
        model.backbone.norm_f.reset()
    return model.to(device=device, dtype=dtype)
