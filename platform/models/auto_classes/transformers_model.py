"""`MplatForCausalLM`: one of our models as a `PreTrainedModel`. Imports transformers; see `transformers_auto`."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...core.errors import UsageError
from ..building import build
from ..model import LanguageModel
from ..model_config import ModelConfig
from ..parts.float32_kept import kept_names
from .transformers_cache import StateCache

# options of a forward pass of transformers' models that would ask for something else than ours compute
_NOT_HERE = {
    "inputs_embeds": "embeddings as input; give input_ids",
    "output_attentions": "attention weights; `language_model.capture` reads what there is",
    "output_hidden_states": "hidden states; `language_model.capture('blocks.*.resid_post')` reads them",
}


class MplatForCausalLM(PreTrainedModel, GenerationMixin):
    """A `LanguageModel` behind transformers' interface; parameter names are those of our folders.

    `model.language_model` is the model itself, with sites, edits, states and generation, on the same weights.
    `generate` is transformers' own, with a `StateCache`: greedy, sampling, beams, padding on the left. What it cannot
    do with a state, drafts by an assistant and caches of other kinds, is refused by name.
    """

    base_model_prefix = "backbone"
    _is_stateful = True
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
        self.generation_config = _only_tokens(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `build` has drawn them."""

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embedding

    def get_output_embeddings(self) -> nn.Module | None:
        return self.language_model.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: StateCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (B, T, V) of input_ids (B, T); with labels (B, T) also the loss, shifted inside as everywhere.

        attention_mask (B, T), or (B, all columns so far) after a cache: zero at padding, on any side. use_cache:
        whether to give back what was read, in the cache that was given or a new one; by default outside of training.
        logits_to_keep: the last so many columns, or these; 0 means all.
        """
        for name, what in _NOT_HERE.items():
            if options.get(name) is not None and options[name] is not False:
                raise UsageError(f"{type(self).__name__} has no {what}")
        if input_ids is None:
            raise UsageError(f"{type(self).__name__} needs input_ids")
        if past_key_values is not None and not isinstance(past_key_values, StateCache):
            raise UsageError(
                f"{type(self).__name__} continues a StateCache, not a {type(past_key_values).__name__}; leave "
                "past_key_values out, a new one is made"
            )
        width = input_ids.shape[1]
        mask = None if attention_mask is None else attention_mask[:, -width:].bool()
        if use_cache is None:
            use_cache = past_key_values is not None or not self.training
        cache = StateCache() if past_key_values is None and use_cache else past_key_values
        last_only = (
            isinstance(logits_to_keep, int) and logits_to_keep == 1 and (mask is None or bool(mask[:, -1].all()))
        )
        logits = self.language_model(
            input_ids, mask, state=None if cache is None else cache.state, return_state=cache is not None,
            last_only=last_only,
        )  # fmt: skip
        if cache is not None:
            logits, state = logits
            cache.advance(state, width)
        if isinstance(logits_to_keep, Tensor):
            logits = logits[:, logits_to_keep]
        elif logits_to_keep and not last_only:
            logits = logits[:, -logits_to_keep:]
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        found = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)  # type: ignore[arg-type]
        return found.to_tuple() if return_dict is False else found

    # -- what transformers' `generate` asks -----------------------------------------------------------------------

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> None:
        """A cache of ours in `model_kwargs`, unless one is there or none is wanted."""
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise UsageError(
                f"cache_implementation {generation_config.cache_implementation!r} is for keys and values of attention; "
                f"{type(self).__name__} carries a state, leave it out"
            )
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = StateCache()

    def adjust_generation_fn(self, *args: Any, **kwargs: Any) -> None:
        """generation_config.json, or the tokens that config.json names: other keys that transformers would take from
        there for settings of generation (`max_length`, `top_k`) are shapes."""
        super().adjust_generation_fn(*args, **kwargs)  # type: ignore[misc]
        if getattr(self.generation_config, "_from_model_config", False):
            self.generation_config = _only_tokens(self.generation_config)


def _only_tokens(source: Any) -> GenerationConfig:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{name: getattr(source, name, None) for name in names})
