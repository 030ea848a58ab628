"""The layout of the original state-spaces checkpoints: `config.json` without model_type and `pytorch_model.bin`.

The only parameter that is named differently is the embedding (`backbone.embedding.weight`); the head is stored
although it is tied. The vocabulary in the config is padded up to `pad_vocab_size_multiple`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ..errors import InputError, UsageError, suggest
from .base_models import below
from .config import ModelConfig
from .layouts import Layout, layout

_LAYERS = {"Mamba1": "mamba", "Mamba2": "mamba2"}
_COMMON = {
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "conv_bias": "use_conv_bias",
    "bias": "use_bias",
    "dt_min": "dt_min",
    "dt_max": "dt_max",
    "dt_init_floor": "dt_floor",
}
_OF_LAYER = {
    "mamba": {"dt_rank": "dt_rank"},
    "mamba2": {"headdim": "head_dim", "ngroups": "n_groups", "chunk_size": "chunk_size", "dt_limit": "dt_limit"},
}
# keys that change initialisation, placement or the choice of kernel, never the function of given weights
_HARMLESS = frozenset({
    "layer", "use_fast_path", "dt_init", "dt_scale", "A_init_range", "use_mem_eff_path", "dt_init_floor", "conv_init",
    "sequence_parallel", "layer_idx", "device", "dtype",
})  # fmt: skip
# keys of Mamba-2 that would change the function, with the values that mean the one that is computed here
_FIXED: dict[str, tuple[Any, ...]] = {
    "rmsnorm": (True,),
    "norm_before_gate": (False,),
    "D_has_hdim": (False,),
    "learnable_init_states": (False,),
    "activation": ("swish", "silu"),
    "process_group": (None,),
}


def is_original(content: Mapping[str, Any]) -> bool:
    """Whether a config.json has the original layout."""
    return "model_type" not in content and "d_model" in content and "n_layer" in content


def read_config(content: Mapping[str, Any], *, source: str = "config.json") -> ModelConfig:
    """The configuration of an original checkpoint. Raises InputError for parts this program does not compute."""
    ssm = dict(content.get("ssm_cfg") or {})
    layer = str(ssm.get("layer", "Mamba1"))
    if layer not in _LAYERS:
        raise InputError(f"{source}: ssm_cfg.layer {layer!r} is not supported; {suggest(layer, _LAYERS)}")
    if content.get("attn_layer_idx") or content.get("d_intermediate", 0):
        raise InputError(f"{source}: attention or MLP layers in the original layout are not supported")
    if not content.get("rms_norm", True):
        raise InputError(f"{source}: rms_norm false (LayerNorm) is not supported")
    arch = _LAYERS[layer]
    names = _COMMON | _OF_LAYER[arch]
    if arch == "mamba2":
        _check_fixed(ssm, content, source)
        ssm = {k: v for k, v in ssm.items() if k not in _FIXED and k != "d_ssm"}
    unknown = sorted(ssm.keys() - names.keys() - _HARMLESS)
    if unknown:
        raise InputError(f"{source}: ssm_cfg has options that are not supported: {', '.join(unknown)}")
    values: dict[str, Any] = {names[k]: v for k, v in ssm.items() if k in names}
    if "dt_limit" in values:
        values["dt_limit"] = (float(values["dt_limit"][0]), float(values["dt_limit"][1]))
    values.setdefault("state_size", 16 if arch == "mamba" else 128)
    multiple = int(content.get("pad_vocab_size_multiple", 8))
    try:
        vocab = -(-int(content["vocab_size"]) // multiple) * multiple
        return ModelConfig(
            arch=arch,
            vocab_size=vocab,
            d_model=content["d_model"],
            n_layers=content["n_layer"],
            residual_in_fp32=bool(content.get("residual_in_fp32", True)),
            tie_embeddings=bool(content.get("tie_embeddings", True)),
            **values,
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise InputError(f"{source}: not a usable state-spaces config ({error})") from error


def _check_fixed(ssm: Mapping[str, Any], content: Mapping[str, Any], source: str) -> None:
    """Raise InputError for a value of Mamba-2's ssm_cfg that means another function than the one computed here."""
    inner = content.get("d_model", 0) * ssm.get("expand", 2)
    for key, valid in (_FIXED | {"d_ssm": (None, inner)}).items():
        if ssm.get(key, valid[0]) not in valid:
            raise InputError(f"{source}: ssm_cfg.{key} {ssm[key]!r} is not supported; only {valid[-1]!r} is")


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The original layout's config.json; inverse of `read_config`."""
    mamba = config.arch == "mamba"
    defaults = ModelConfig(
        arch=config.arch,
        vocab_size=1,
        d_model=config.d_model,
        n_layers=1,
        state_size=16 if mamba else 128,
        head_dim=config.head_dim,
    )
    ssm: dict[str, Any] = {"layer": "Mamba2", "headdim": config.head_dim} if config.arch == "mamba2" else {}
    for theirs, ours in (_COMMON | _OF_LAYER[config.arch]).items():
        if getattr(config, ours) != getattr(defaults, ours):
            value = getattr(config, ours)
            ssm[theirs] = list(value) if isinstance(value, tuple) else value
    return {
        "d_model": config.d_model,
        "n_layer": config.n_layers,
        "vocab_size": config.vocab_size,
        "ssm_cfg": ssm,
        "rms_norm": True,
        "residual_in_fp32": config.residual_in_fp32,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,  # vocab_size above is already padded
        "tie_embeddings": config.tie_embeddings,
    }


def rename(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our parameter names for an original checkpoint's tensors, or for those of its backbone alone."""
    named = below(weights, "backbone", "lm_head")
    return {("backbone.embeddings.weight" if n == "backbone.embedding.weight" else n): t for n, t in named.items()}


def restore_names(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The original names; a tied head is stored twice, as the original code does."""
    named = {("backbone.embedding.weight" if n == "backbone.embeddings.weight" else n): t for n, t in weights.items()}
    if config.tie_embeddings:
        named["lm_head.weight"] = named["backbone.embedding.weight"]
    return named


@layout("original")
class OriginalLayout(Layout):
    """The functions above, as a layout."""

    architectures: ClassVar[frozenset[str]] = frozenset(_OF_LAYER)

    def recognises(self, folder: Path, content: Mapping[str, Any] | None) -> bool:
        return content is not None and is_original(content)

    def read_config(self, folder: Path, content: Mapping[str, Any]) -> ModelConfig:
        return read_config(content, source=str(folder / "config.json"))

    def rename(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        return rename(weights, config)

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        return write_config(config)

    def restore_names(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        return restore_names(weights, config)
