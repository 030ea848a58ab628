"""Sparse autoencoders in SAELens' format: a folder with cfg.json and sae_weights.safetensors, to and fro.

    write_saelens(dictionary, folder, model="tiny-mamba", site="blocks.2.resid_post")
    dictionary = read_saelens(folder)

Tensors are those of `SparseDictionary`. Architectures: `standard` (relu), `jumprelu` (a threshold for each latent) and
`topk`. What normalises its inputs, gates latents or reshapes its inputs is refused by name: read as one of these it
would be another dictionary. One that competed over batches is jumprelu by now.
Both files are written whole or not at all, the configuration last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ....core.errors import InputError
from ....core.json_files import read_object
from ....core.whole_files import publish_bytes, publish_json
from .dictionary import SparseDictionary

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_ARCHITECTURES = ("standard", "jumprelu", "topk")


def config_of(dictionary: SparseDictionary, *, model: str, site: str) -> dict[str, Any]:
    """The content of cfg.json: what SAELens 6 needs, and what older versions read beside it."""
    architecture = "topk" if dictionary.k is not None else "standard" if dictionary.threshold is None else "jumprelu"
    about: dict[str, Any] = {
        "architecture": architecture, "d_in": dictionary.width, "d_sae": dictionary.n_latents, "dtype": "float32",
        "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none",
        "reshape_activations": "none", "metadata": {"model_name": model, "hook_name": site},
    }  # fmt: skip
    return about | ({} if dictionary.k is None else {"k": dictionary.k})


def write_saelens(dictionary: SparseDictionary, folder: str | Path, *, model: str, site: str) -> Path:
    """Write the two files into `folder`, which is made; files of an earlier one are replaced. model, site: its names,
    for whoever reads it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.float().contiguous() for name, t in dictionary.tensors().items() if name != "k"}
    publish_bytes(save(tensors), folder / WEIGHTS, replace=True)
    publish_json(config_of(dictionary, model=model, site=site), folder / CONFIG)
    return folder


def read_saelens(folder: str | Path) -> SparseDictionary:
    """The dictionary of a folder. Raises InputError naming what is missing, damaged, or of a kind that is not read."""
    folder = Path(folder)
    about = read_object(folder / CONFIG)
    try:
        tensors = load((folder / WEIGHTS).read_bytes())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}: {error.filename})") from error
    except (ValueError, SafetensorError) as error:
        raise InputError(f"{folder}: damaged, or not in SAELens' format ({error})") from error
    architecture = about.get("architecture", "standard")
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise InputError(f"{folder}: an autoencoder of architecture {architecture!r} is not read; {known} are")
    for name, plain in (("normalize_activations", "none"), ("reshape_activations", "none")):
        if about.get(name, plain) not in (plain, None):
            raise InputError(f"{folder}: {name} is {about[name]!r}; fold that into its weights first")
    own = {name: tensor for name, tensor in tensors.items() if name != "k"}
    if (architecture == "jumprelu") != ("threshold" in own):
        raise InputError(f"{folder}: a threshold belongs to architecture jumprelu alone, and this is {architecture}")
    if architecture == "topk":
        own["k"] = torch.tensor(_number(about, "k", folder))
    if not about.get("apply_b_dec_to_input", True):
        own = _reading_uncentred(own, folder)
    return SparseDictionary.of(own, str(folder))


def _number(about: dict[str, Any], name: str, folder: Path) -> int:
    value = about.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{folder / CONFIG}: {name} is {value!r}; a topk autoencoder has a number of latents")
    return value


def _reading_uncentred(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """x W_enc + b_enc is (x - b_dec) W_enc + (b_enc + b_dec W_enc)."""
    try:
        moved = tensors["b_enc"].double() + tensors["b_dec"].double() @ tensors["W_enc"].double()
    except KeyError as error:
        raise InputError(f"{folder / WEIGHTS}: has no tensor {error.args[0]}") from error
    return tensors | {"b_enc": moved.float()}
