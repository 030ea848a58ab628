"""`MplatForCausalLM`: one of our models as a `PreTrainedModel`. Imports transformers; see `transformers_auto`."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .building import build
from .config import ModelConfig
from .float32_kept import kept_names
from .model import LanguageModel


class MplatForCausalLM(PreTrainedModel):
    """A `LanguageModel` behind transformers' interface; parameter names are those of our folders.

    `model.language_model` is the model itself, with sites, edits, states and generation, on the same weights.
    """

    base_model_prefix = "backbone"
    language_model: LanguageModel

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        shape = ModelConfig.from_hf(config.to_dict())
        if torch.get_default_device().type == "meta":  # weights will be loaded
            model = LanguageModel(shape)
        else:
            model = build(shape, seed=int(torch.randint(2**31, ())), dtype=torch.get_default_dtype())
        self.backbone = model.backbone
        if model.lm_head is not None:
            self.lm_head = model.lm_head
        self.__dict__["language_model"] = model  # not a part: its parts are ours already
        # regular expressions there, so the whole name, in any layer
        kept = {re.sub(r"\d+", r"\\d+", re.escape(name)) + "$" for name in kept_names(self.backbone)}
        self._keep_in_fp32_modules_strict = sorted(kept)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `build` has drawn them."""

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embedding

    def get_output_embeddings(self) -> nn.Module | None:
        return self.language_model.lm_head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> CausalLMOutput:
        """Logits (B, T, V) of input_ids (B, T); with labels (B, T) also the loss, shifted inside as everywhere.

        attention_mask (B, T): zero at padding, on any side.
        """
        mask = None if attention_mask is None else attention_mask.bool()
        logits = self.language_model(input_ids, mask)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutput(loss=loss, logits=logits)
