"""The layout of the original state-spaces checkpoints: `config.json` without model_type and `pytorch_model.bin`.

The only parameter that is named differently is the embedding (`backbone.embedding.weight`); the head is stored
although it is tied. The vocabulary in the config is padded up to `pad_vocab_size_multiple`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ....core.errors import InputError, UsageError, suggest
from ...config_checks import COUNT, FLAG, TEXT, accepted, read_fields, require_fixed, shown
from ...files.base_models import below
from ...files.layouts import Layout, layout
from ...model_config import ModelConfig

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
_OUTER = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "n_layers": "n_layer",
    "residual_in_fp32": "residual_in_fp32",
    "tie_embeddings": "tie_embeddings",
}
_EMBEDDING = "backbone.embedding.weight"
_HAS_DEFAULT = frozenset({"residual_in_fp32", "tie_embeddings"})
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


def rename(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our parameter names for an original checkpoint's tensors, or for those of its backbone alone."""
    return _called(below(weights, "backbone", "lm_head"), _EMBEDDING, "backbone.embeddings.weight")


def _called(weights: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {(new if name == old else name): tensor for name, tensor in weights.items()}


@layout("original")
class OriginalLayout(Layout):
    """Mamba and Mamba-2 as mamba_ssm writes them."""

    architectures: ClassVar[frozenset[str]] = frozenset(_OF_LAYER)

    def recognises(self, folder: Path, content: Mapping[str, Any] | None) -> bool:
        return content is not None and "model_type" not in content and {"d_model", "n_layer"} <= content.keys()

    def read_config(self, folder: Path, content: Mapping[str, Any]) -> ModelConfig:
        """The configuration of an original checkpoint. Raises InputError for parts this program does not compute."""
        source = str(folder / "config.json")
        ssm = {} if content.get("ssm_cfg") is None else content["ssm_cfg"]
        if not isinstance(ssm, dict):
            raise InputError(f"{source}: ssm_cfg must be an object, not {shown(ssm)}")
        layer = accepted(TEXT, "ssm_cfg.layer", ssm.get("layer", "Mamba1"), source)
        if layer not in _LAYERS:
            raise InputError(f"{source}: ssm_cfg.layer {layer!r} is not supported; {suggest(layer, _LAYERS)}")
        if content.get("attn_layer_idx") or content.get("d_intermediate", 0):
            raise InputError(f"{source}: attention or MLP layers in the original layout are not supported")
        if not accepted(FLAG, "rms_norm", content.get("rms_norm", True), source):
            raise InputError(f"{source}: rms_norm false (LayerNorm) is not supported")
        arch = _LAYERS[layer]
        names = _COMMON | _OF_LAYER[arch]
        inner = None
        if arch == "mamba2":
            require_fixed(ssm, _FIXED, source, "ssm_cfg.")
            inner = ssm.get("d_ssm")
            ssm = {k: v for k, v in ssm.items() if k not in _FIXED and k != "d_ssm"}
        unknown = sorted(ssm.keys() - names.keys() - _HARMLESS)
        if unknown:
            raise InputError(f"{source}: ssm_cfg has options that are not supported: {', '.join(unknown)}")
        absent = next((key for key in _OUTER.values() if key not in content and key not in _HAS_DEFAULT), None)
        if absent is not None:
            raise InputError(f"{source}: there is no {absent}, which a state-spaces config has")
        values = read_fields(ssm, {ours: theirs for theirs, ours in names.items()}, source, "ssm_cfg.")
        values |= read_fields(content, _OUTER, source)
        values.setdefault("state_size", 16 if arch == "mamba" else 128)
        multiple = accepted(COUNT, "pad_vocab_size_multiple", content.get("pad_vocab_size_multiple", 8), source)
        values["vocab_size"] = -(-values["vocab_size"] // multiple) * multiple
        try:
            config = ModelConfig(arch=arch, **values)
        except UsageError as error:
            raise InputError(f"{source}: not a usable state-spaces config ({error})") from error
        require_fixed({"d_ssm": inner}, {"d_ssm": (None, config.inner_size)}, source, "ssm_cfg.")
        return config

    def rename(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        return rename(weights, config)

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
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

    def restore_names(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """The original names; a tied head is stored twice, as the original code does."""
        named = _called(weights, "backbone.embeddings.weight", _EMBEDDING)
        if config.tie_embeddings:
            named["lm_head.weight"] = named[_EMBEDDING]
        return named
