"""Loading and saving models: Hugging Face folders and the layouts of other programs (`layouts`), both ways.

A folder holds `config.json` and `model.safetensors` (one file or sharded with an index), or `pytorch_model.bin`,
which is read with weights-only unpickling and refused when it contains anything but tensors. Code from a folder is
never run. Tokenizer files are optional.
"""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - only for the name of the error that a refused file raises
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError, UsageError, suggest
from . import adapters, catalog, layouts, mixers, original_format
from .config import ModelConfig
from .model import LanguageModel
from .precision import faster_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name: str | os.PathLike[str], device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
) -> LanguageModel:
    """A model by name: one that is shipped (`tiny-mamba`), a folder, or a hub id (`state-spaces/mamba-130m-hf`).

    dtype: default float32 whatever the file holds; float64 makes every operation float64; "auto" is bfloat16 where that
    is faster (`precision.faster_dtype` says why), else float32. device: default the CPU.
    A hub id needs the files in the local cache or a network. Raises InputError for anything that cannot be used and
    UsageError for an unknown dtype.
    """
    if isinstance(dtype, str) and dtype != "auto":
        if dtype not in _DTYPES:
            raise UsageError(f"unknown dtype {dtype!r}; {suggest(dtype, ['auto', *_DTYPES])}")
        dtype = _DTYPES[dtype]
    folder = resolve(name)
    config, weights = read(folder)
    check_finite(weights, folder)
    with torch.device("meta"):
        if isinstance(config, adapters.AdaptedConfig):
            model = adapters.construct(config, name=os.fspath(name))
        else:
            model = LanguageModel(config, name=os.fspath(name))
    _fit(model, weights, folder)
    model.load_state_dict(weights, assign=True)
    model.tokenizer = read_tokenizer(folder, config)
    if dtype == "auto":
        dtype, _ = faster_dtype(torch.device(device or "cpu"), config.d_model)
    assert not isinstance(dtype, str)
    model = model.to(device=device or "cpu", dtype=dtype or torch.float32)
    return model.requires_grad_(True).eval()


def resolve(name: str | os.PathLike[str]) -> Path:
    """The folder of a model name. Raises UsageError for an empty name, and InputError naming the nearest shipped model,
    or how to fetch a hub id."""
    shipped = catalog.shipped()
    text = os.fspath(name)
    if not text.strip():
        raise UsageError(f"the name of the model is empty; {suggest(text, shipped)}; see `mplat models`")
    if text in shipped:
        return shipped[text]
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{path} is a file; a model is a folder with config.json and model.safetensors")
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return _from_hub(text)
    raise InputError(
        f"no model {text!r}: not a folder, and not shipped; {suggest(text, [*shipped, *catalog.HUB])}; "
        "see `mplat models`"
    )


def _from_hub(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model.bin"]
    wanted += [pattern for known in layouts.layouts().values() for pattern in known.hub_files]
    try:
        return Path(snapshot_download(repo, allow_patterns=wanted, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        pass  # not in the cache: ask the hub
    except HFValidationError as error:
        raise InputError(f"no model {repo!r}: not a folder, and not a valid hub id") from error
    try:
        return Path(snapshot_download(repo, allow_patterns=wanted, etag_timeout=5))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        near = "mplat knows it" if repo in catalog.HUB else suggest(repo, [*catalog.shipped(), *catalog.HUB])
        raise InputError(
            f"no model {repo!r}: no such folder, not in the local cache, and the hub gave no answer; {near}; "
            f"fetch it where there is a network with `hf download {repo}`"
        ) from error


def read(folder: Path) -> tuple[ModelConfig | adapters.AdaptedConfig, dict[str, Tensor]]:
    """Configuration and weights of a folder in any layout, with our parameter names."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    if path.exists() and not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object")
    layout = layouts.recognise(folder, content)
    if layout is not None:
        weights = layout.read_weights(folder)
        weights = _weights(folder) if weights is None else weights
        config = layout.read_config(folder, content or {})
        return config, layout.rename(weights, config)
    if content is None:
        raise InputError(f"{folder}: there is no config.json; a model folder needs one")
    weights = _weights(folder)
    if content.get("model_type") in adapters.names():
        return adapters.read(content, weights, source=str(path))
    if content.get("model_type") not in mixers.names():
        known = [*mixers.names(), *adapters.names()]
        wrong = content.get("model_type")
        raise InputError(f"{path}: model_type {wrong!r} is not supported; {suggest(str(wrong), known)}")
    config = ModelConfig.from_hf(content, source=str(path))
    return config, original_format.rename(weights, config)  # a hub copy may carry the original's one differing name


def _weights(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    pickled = folder / "pytorch_model.bin"
    for path in (single, index, pickled):
        if path.is_dir():
            raise InputError(f"{path}: is a folder, and should be a file; copy the model again")
    if single.exists():
        return _safetensors(single)
    if index.exists():
        try:
            parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise InputError(f"{index}: not a safetensors index ({error})") from error
        merged: dict[str, Tensor] = {}
        for part in parts:
            if Path(part).name != part:
                raise InputError(f"{index}: names a file outside its folder, {part!r}")
            merged |= _safetensors(folder / part)
        return merged
    if pickled.exists():
        return _weights_only(pickled)
    raise InputError(f"{folder}: no weights; expected model.safetensors or pytorch_model.bin")


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: missing weight file") from None
    except (SafetensorError, struct.error, ValueError, OSError) as error:
        raise InputError(f"{path}: damaged or truncated safetensors file ({error}); copy it again") from error


def _weights_only(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch guesses at what is wrong with the file; the error says it
            content: Any = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - tensors only
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, this pickle holds more than tensors and could run code; "
            "convert it to safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged or truncated weight file ({error})") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path}: holds no dictionary of tensors")
    return content


def check_finite(weights: dict[str, Tensor], folder: Path) -> None:
    """Raise InputError naming the first tensor that is not floating point or holds NaN or infinity."""
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise InputError(f"{folder}: tensor {name} has dtype {tensor.dtype}; weights must be floating point")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{folder}: tensor {name} contains NaN or infinite values; the checkpoint is damaged")


def _fit(model: LanguageModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Check names and shapes against the model; drop a tied head that the file repeats."""
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    if model.config.tie_embeddings:
        head = weights.pop("lm_head.weight", None)
        if head is not None and "backbone.embeddings.weight" not in weights:
            weights["backbone.embeddings.weight"] = head
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
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


def read_tokenizer(folder: Path, config: ModelConfig | adapters.AdaptedConfig) -> PreTrainedTokenizerFast | None:
    """The folder's fast tokenizer, or None if it has none. Raises InputError if it does not fit the model."""
    if not (folder / "tokenizer.json").exists():
        return None
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a malformed file
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{folder / 'tokenizer.json'}: is not a tokenizer ({reason}); copy it again") from error
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens but the embedding only {config.vocab_size} rows"
        )
    return tokenizer


def save(model: LanguageModel, folder: str | Path, *, dtype: torch.dtype | None = None, layout: str = "hf") -> Path:
    """Write `model` into `folder` (made if missing); files there are replaced one by one, weights last.

    layout "hf": config.json, model.safetensors. layout "original": the state-spaces config and pytorch_model.bin.
    Others: see `layouts`. dtype: of the stored weights, default the model's.

    Raises UsageError for a layout that is not known, or that cannot hold this architecture.
    """
    from safetensors.torch import save_file

    other = None if layout == "hf" else layouts.for_saving(layout, model.config.arch)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    weights = {n: t.detach().to("cpu", dtype or t.dtype).contiguous().clone() for n, t in model.state_dict().items()}
    content = model.config.to_hf() if other is None else other.write_config(model.config)
    if other is None:
        content["dtype"] = str(dtype or model.dtype).removeprefix("torch.")
    _replace(target / "config.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(str(target))
    part = target / ".weights.part"
    if other is None:
        save_file(weights, part, metadata={"format": "pt"})
    else:
        other.write_weights(other.restore_names(weights, model.config), part)
    os.replace(part, target / ("model.safetensors" if other is None else other.weight_file))
    return target


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)
