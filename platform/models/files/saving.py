"""Saving models: a Hugging Face folder, or the layout of another program (`layouts`). `loading` reads both."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..changes import refuse_changed
from ..decoding.ends import GENERATION_FILE
from ..model import LanguageModel
from ..parts.float32_kept import HALVES, kept_names
from . import layouts


def save(model: LanguageModel, folder: str | Path, *, dtype: torch.dtype | None = None, layout: str = "hf") -> Path:
    """Write `model` into `folder` (made if missing); files there are replaced one by one, weights last.

    layout "hf": config.json, generation_config.json where the model came with one, model.safetensors. layout
    "original": the state-spaces config and pytorch_model.bin. Others: see `layouts`.
    dtype: of the stored weights, default the model's; what `float32_kept` names is never stored in halves.

    Raises UsageError for a layout that is not known, or that cannot hold this architecture, and for a changed model.
    """
    from safetensors.torch import save_file

    refuse_changed(model, "a saved model")
    other = None if layout == "hf" else layouts.for_saving(layout, model.config.arch)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    weights = _stored(model, dtype)
    content = model.config.to_hf() if other is None else other.write_config(model.config)
    if other is None:
        content["dtype"] = str(dtype or model.dtype).removeprefix("torch.")
    _replace(target / "config.json", _json(content))
    if model.generation_settings is None:
        (target / GENERATION_FILE).unlink(missing_ok=True)  # of another model: it would decide what ends a text
    else:
        _replace(target / GENERATION_FILE, _json(model.generation_settings))
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(str(target))
    part = _part_of(target, "weights")
    if other is None:
        save_file(weights, part, metadata={"format": "pt"})
    else:
        other.write_weights(other.restore_names(weights, model.config), part)
    os.replace(part, target / ("model.safetensors" if other is None else other.weight_file))
    return target


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _stored(model: LanguageModel, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Copies of the weights in `dtype`; what a model of half precision keeps in float32 stays so in its file."""
    kept = kept_names(model) if dtype in HALVES else frozenset()
    stored: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        wanted = torch.float32 if name in kept else dtype or tensor.dtype
        stored[name] = tensor.detach().to("cpu", wanted).contiguous().clone()
    return stored


def _replace(path: Path, content: bytes) -> None:
    part = _part_of(path.parent, path.name)
    part.write_bytes(content)
    os.replace(part, path)


def _part_of(folder: Path, name: str) -> Path:
    """A name that nobody can have put a link under."""
    return folder / f".{name}.{uuid.uuid4().hex}.part"
