"""Training on from a model that there is: its weights, its shape, and the tokenizer that its numbers stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..core.errors import InputError
from .data import SOURCES, TokenizerFacts, source_names
from .train_config import StartSection, TrainConfig

if TYPE_CHECKING:
    from ..models import LanguageModel, ModelConfig

_VOCABULARY = "tokenizer.json"


def with_tokenizer_of_start(config: TrainConfig) -> TrainConfig:
    """`config` with the tokenizer of `start.model`, where none is named and the data have none of their own.

    Raises InputError where that model has none.
    """
    name, source = config.start.model, config.data.source
    own = source in source_names() and SOURCES.get(source).brings_tokenizer
    if name is None or config.data.tokenizer is not None or own:
        return config
    from ..models.files.model_folders import resolve

    folder = resolve(name)
    if not (folder / _VOCABULARY).is_file():
        raise InputError(
            f"start.model {name!r} comes without a tokenizer; name the one it was trained with by data.tokenizer"
        )
    data = config.data.model_copy(update={"tokenizer": str(folder)})
    return config.model_copy(update={"data": data})


def shape_of_start(name: str, tokenizer: TokenizerFacts) -> ModelConfig:
    """The shape of the model `name`, to be trained with this tokenizer.

    Raises InputError where its vocabulary is too small for the tokenizer or its folder has another one, and for a model
    of a kind that cannot be trained.
    """
    from ..models import ModelConfig, load
    from ..models.files.model_folders import resolve

    shape = load(name).config
    if not isinstance(shape, ModelConfig):
        raise InputError(f"start.model {name!r}: a {shape.arch} can be analysed and steered here, but not trained")
    if tokenizer.size > shape.vocab_size:
        raise InputError(
            f"start.model {name!r} has {shape.vocab_size} tokens and the tokenizer {tokenizer.folder} "
            f"{tokenizer.size}; leave data.tokenizer out to use the model's own"
        )
    own, ours = resolve(name) / _VOCABULARY, tokenizer.folder / _VOCABULARY
    if own.is_file() and ours.is_file() and own.read_bytes() != ours.read_bytes():
        raise InputError(
            f"start.model {name!r} was trained with another tokenizer than {tokenizer.folder}: its tokens would mean "
            "something else; leave data.tokenizer out, or tokenise the data with the model's own"
        )
    return shape


def started_from(start: StartSection, seed: int, device: torch.device) -> LanguageModel:
    """The model of `start.model`, float32, with low-rank changes to learn where they are asked for."""
    from ..models import load
    from ..models.low_rank import attach

    assert start.model is not None
    model = load(start.model, device=device, dtype=torch.float32)
    return model if start.lora_rank is None else attach(model, start.lora_rank, start.lora_alpha, seed)
