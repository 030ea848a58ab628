"""Loading models: from the name of a model to a `LanguageModel`, out of Hugging Face folders and the layouts of other
programs (`layouts`).

A folder holds `config.json` and weights in any of the layouts of `weight_files`. Code from a folder is never run.
Tokenizer files are optional. Not here: finding the folder (`model_folders`, `hub`), writing one (`saving`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from ...core.errors import InputError, suggest
from ...core.json_files import read_object
from .. import adapters
from ..changes import parted, put_in_force
from ..decoding.ends import generation_settings
from ..families.mamba import original_format
from ..low_rank import merged
from ..mixer import MIXERS
from ..model import LanguageModel
from ..model_config import ModelConfig
from ..placement import device_named, dtype_named
from ..planted import find_planted, is_planted
from . import catalog, layouts, tokenizer_files
from .known_digests import check_files, check_shipped
from .model_folders import resolve
from .tied_weights import settle
from .training_record import training_record
from .weight_files import check_finite, read_weights

__all__ = ["check_finite", "load", "read", "resolve"]

_EMBEDDING, _HEAD = "backbone.embeddings.weight", "lm_head.weight"
AnyConfig = ModelConfig | adapters.AdaptedConfig


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    tokenizer: str | os.PathLike[str] | None = None,
) -> LanguageModel:
    """A model by name: a shipped one (`tiny-mamba`), one whose weights are set by hand (`planted-copy-mamba`, see
    `models.planted`), a folder, a checkpoint of a training run (`runs/x@1000`), or a hub id (`gpt2`); or such a name
    with a recipe behind a colon (`tiny-mamba:recipe.json`), which is then always in force (`models.changes`).

    dtype: default float32 whatever the file holds; float64 makes every operation float64; "auto" is bfloat16 where that
    is faster (`precision.faster_dtype` says why), else float32. device: default the CPU. tokenizer: a folder, a
    tokenizer.json, a shipped model or a hub id to take the tokenizer from; default the model's own, and for a hub id
    that comes without the one it was trained with.
    A hub id needs the files in the local cache or a network. Raises InputError for anything that cannot be used and
    UsageError for a device or dtype that there is not.
    """
    place = device_named(device)
    dtype_named(dtype, place, 1)  # a wrong name is found before the weights have been read
    if isinstance(name, (str, os.PathLike)) and (changed := parted(name)) is not None:
        model = load(changed.base, device, dtype, tokenizer=tokenizer)
        put_in_force(model, changed.path)
        model.name = os.fsdecode(name)
        return model
    if isinstance(name, str) and is_planted(name):
        model = find_planted(name).grow(torch.float64)
        if tokenizer is not None:
            model.tokenizer = tokenizer_files.of_model(name, Path(), tokenizer, model.config.vocab_size)
            model.tokenizer_name = os.fsdecode(tokenizer)
        return model.to(device=place, dtype=dtype_named(dtype, place, model.config.d_model))
    folder = resolve(name)
    check_files(folder)
    config, weights = read(folder)
    check_finite(weights, folder)
    config, weights = _tied(config, weights)
    with torch.device("meta"), _no_more_than(weights, folder):
        if isinstance(config, adapters.AdaptedConfig):
            model = adapters.construct(config, name=os.fspath(name))
        else:
            model = LanguageModel(config, name=os.fspath(name))
    _fit(model, weights, folder)
    model.load_state_dict(weights, assign=True)
    model.generation_settings = _generation_settings(folder)
    model.tokenizer = tokenizer_files.of_model(os.fspath(name), folder, tokenizer, config.vocab_size)
    model.training_record = training_record(folder)
    model.tokenizer_name = None if tokenizer is None else os.fsdecode(tokenizer)
    model = model.to(device=place, dtype=dtype_named(dtype, place, config.d_model))
    if model.dtype == torch.float32 and tokenizer is None and os.fspath(name) in catalog.shipped():
        check_shipped(model, folder)
    return model.requires_grad_(True).eval()


def _generation_settings(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.json"
    content = read_object(path, constants=True) if path.exists() else None
    of_transformers = content is not None and layouts.recognise(folder, content) is None
    return generation_settings(folder, content if of_transformers else None)


def read(folder: Path) -> tuple[AnyConfig, dict[str, Tensor]]:
    """Configuration and weights of a folder in any layout, with our parameter names; first the configuration."""
    path = folder / "config.json"
    content = read_object(path, constants=True) if path.exists() else None
    layout = layouts.recognise(folder, content)
    if layout is not None:
        config = layout.read_config(folder, content or {})
        weights = layout.read_weights(folder)
        return config, layout.rename(read_weights(folder) if weights is None else weights, config)
    if content is None:
        raise InputError(f"{folder}: there is no config.json; a model folder needs one")
    if content.get("model_type") in adapters.names():
        adapted = adapters.AdaptedConfig.from_hf(content, source=str(path))
        return adapted, adapters.get(adapted.model_type).rename(read_weights(folder), adapted)
    if content.get("model_type") not in MIXERS.names():
        known = [*MIXERS.names(), *adapters.names()]
        wrong = content.get("model_type")
        raise InputError(f"{path}: model_type {wrong!r} is not supported; {suggest(str(wrong), known)}")
    config = ModelConfig.from_hf(content, source=str(path))
    # a hub copy may carry the original's one differing name
    return config, merged(original_format.rename(read_weights(folder), config))


def _tied(config: AnyConfig, weights: dict[str, Tensor]) -> tuple[AnyConfig, dict[str, Tensor]]:
    """Tied weights once; an untied configuration where the file holds other values than config.json says."""
    if not config.tie_embeddings:
        return config, weights
    if isinstance(config, adapters.AdaptedConfig):
        settled, tied = settle(weights, adapters.get(config.model_type).ties(config, weights))
        return (config if tied else replace(config, content={**config.content, "tie_word_embeddings": False})), settled
    settled, tied = settle(weights, [(_HEAD, _EMBEDDING)])
    return (config if tied else replace(config, tie_embeddings=False)), settled


@contextmanager
def _no_more_than(weights: Mapping[str, Tensor], folder: Path) -> Iterator[None]:
    """Building ends with InputError where config.json asks for many more tensors than the files hold: a number of
    layers or experts costs memory even where nothing is in them. Tied weights and buffers stand in no file."""
    allowed, made = 2 * len(weights) + 64, itertools.count(1)

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> None:
        if next(made) > allowed:
            raise InputError(
                f"{folder}: weights do not fit config.json, which asks for more than {allowed} tensors where the files "
                f"hold {len(weights)}"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _fit(model: LanguageModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Check names and shapes against the model."""
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    head = "lm_head" if not isinstance(model, adapters.AdaptedModel) else model.head_name
    if missing == [f"{head}.weight"] and not extra:
        raise InputError(
            f"{folder}: the weights have no head, and config.json does not say that it is the table of embeddings "
            "(tie_word_embeddings); a base model alone has no scores for the next token"
        )
    if missing or extra:
        raise InputError(
            f"{folder}: weights do not fit config.json; missing {missing[:3] or 'nothing'}, "
            f"unexpected {extra[:3] or 'nothing'}"
        )
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise InputError(
                f"{folder}: tensor {name} has shape {tuple(weights[name].shape)}, config.json says {shape}"
            )
