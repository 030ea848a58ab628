"""The shape of a model: one frozen dataclass for every architecture, and its Hugging Face config both ways.

`ModelConfig` holds what changes the function a model computes. `from_hf` and `to_hf` translate to the `config.json`
of transformers' Mamba and Mamba-2 classes; the original state-spaces layout is translated in `original_format`.
Nothing here reads files or builds tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import InputError, UsageError, suggest

_HF_NAMES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "state_size": "state_size",
    "expand": "expand",
    "conv_kernel": "conv_kernel",
    "norm_eps": "layer_norm_epsilon",
    "use_bias": "use_bias",
    "use_conv_bias": "use_conv_bias",
    "residual_in_fp32": "residual_in_fp32",
    "tie_embeddings": "tie_word_embeddings",
    "dt_min": "time_step_min",
    "dt_max": "time_step_max",
    "dt_floor": "time_step_floor",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}
_HF_NAMES_OF_ARCH = {
    "mamba": {"dt_rank": "time_step_rank"},
    "mamba2": {"head_dim": "head_dim", "n_groups": "n_groups", "chunk_size": "chunk_size"},
}
_HF_CLASS = {"mamba": "MambaForCausalLM", "mamba2": "Mamba2ForCausalLM"}
# Defaults of transformers' config classes where they differ from ours: a config.json may leave them out.
_HF_DEFAULTS: dict[str, dict[str, Any]] = {
    "mamba": {"vocab_size": 50280, "d_model": 768, "n_layers": 32, "state_size": 16},
    "mamba2": {
        "vocab_size": 32768, "d_model": 4096, "n_layers": 64, "state_size": 128, "head_dim": 64, "n_groups": 8,
        "chunk_size": 256, "tie_embeddings": False,
    },
}  # fmt: skip

# fields that only some architectures use; a mixer lists those it does in `config_fields`
_OPTIONAL = frozenset({"dt_rank", "head_dim", "n_groups", "chunk_size", "dt_limit"})


def _number(value: Any) -> float:
    """A float from config.json; transformers writes infinity as {"__float__": "Infinity"}."""
    return float(value["__float__"] if isinstance(value, Mapping) else value)


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of a state-space language model.

    arch: name of a registered mixer ("mamba", "mamba2").
    vocab_size, d_model, n_layers: V, d, L. state_size: N. expand: E = expand * d_model. conv_kernel: k taps.
    dt_rank: rank R of the Delta projection (mamba); "auto" is ceil(d / 16).
    head_dim, n_groups: P and G (mamba2); H = E / P heads. chunk_size: kept for other programs; our kernels choose
    their own chunk, which does not change the result.
    dt_min, dt_max, dt_floor: initialisation range of Delta. dt_limit: clamp of Delta (mamba2).
    """

    arch: str
    vocab_size: int
    d_model: int
    n_layers: int
    state_size: int = 16
    expand: int = 2
    conv_kernel: int = 4
    dt_rank: int | str = "auto"
    head_dim: int = 64
    n_groups: int = 1
    chunk_size: int = 256
    norm_eps: float = 1e-5
    use_bias: bool = False
    use_conv_bias: bool = True
    residual_in_fp32: bool = True
    tie_embeddings: bool = True
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dt_floor: float = 1e-4
    dt_limit: tuple[float, float] = (0.0, math.inf)
    bos_token_id: int | None = 0
    eos_token_id: int | None = 0
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        from .mixers import get

        used = get(self.arch).config_fields
        for field in fields(self):  # what the architecture does not use keeps its default: equal models, equal configs
            if field.name in _OPTIONAL and field.name not in used:
                object.__setattr__(self, field.name, field.default)
        for name in (
            "vocab_size",
            "d_model",
            "n_layers",
            "state_size",
            "expand",
            "conv_kernel",
            "head_dim",
            "n_groups",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"model config: {name} must be a positive integer, not {value!r}")
        if self.conv_kernel < 2:
            raise UsageError("model config: conv_kernel must be at least 2")
        if self.dt_rank == "auto":
            object.__setattr__(self, "dt_rank", math.ceil(self.d_model / 16))
        if not isinstance(self.dt_rank, int) or self.dt_rank < 1:
            raise UsageError(f"model config: dt_rank must be 'auto' or a positive integer, not {self.dt_rank!r}")
        if self.arch == "mamba2":
            if self.inner_size % self.head_dim:
                raise UsageError(
                    f"model config: expand * d_model = {self.inner_size} is not a multiple of head_dim {self.head_dim}"
                )
            if self.n_heads % self.n_groups:
                raise UsageError(f"model config: {self.n_heads} heads do not divide into {self.n_groups} groups")

    @property
    def inner_size(self) -> int:
        """E, the width of the recurrent branch."""
        return self.expand * self.d_model

    @property
    def n_heads(self) -> int:
        """H, the number of heads (mamba2)."""
        return self.inner_size // self.head_dim

    def to_hf(self) -> dict[str, Any]:
        """The content of a transformers `config.json` for this model."""
        content: dict[str, Any] = {"architectures": [_HF_CLASS[self.arch]], "model_type": self.arch}
        for ours, theirs in (_HF_NAMES | _HF_NAMES_OF_ARCH[self.arch]).items():
            content[theirs] = getattr(self, ours)
        # rescale_prenorm_residual stays false: with true, transformers 5.23 divides the out_proj it has just loaded
        content |= {"hidden_act": "silu", "rescale_prenorm_residual": False, "intermediate_size": self.inner_size}
        if self.arch == "mamba2":
            content["num_heads"] = self.n_heads
            if self.dt_limit != (0.0, math.inf):  # the default contains infinity, which JSON cannot hold
                content["time_step_limit"] = list(self.dt_limit)
        return content

    @classmethod
    def from_hf(cls, content: Mapping[str, Any], *, source: str = "config.json") -> ModelConfig:
        """Read a transformers `config.json`. Raises InputError where this program cannot compute the same function."""
        arch = content.get("model_type")
        if arch not in _HF_CLASS:
            raise InputError(f"{source}: model_type {arch!r} is not supported; {suggest(str(arch), _HF_CLASS)}")
        if content.get("hidden_act", "silu") not in ("silu", "swish"):
            raise InputError(f"{source}: hidden_act {content['hidden_act']!r} is not supported; only silu is")
        values: dict[str, Any] = {"arch": arch} | _HF_DEFAULTS[arch]
        for ours, theirs in (_HF_NAMES | _HF_NAMES_OF_ARCH[arch]).items():
            if theirs in content:
                values[ours] = content[theirs]
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = values["eos_token_id"][0]
        if arch == "mamba2":
            low, high = content.get("time_step_limit") or (0.0, math.inf)
            values["dt_limit"] = (_number(low), _number(high))
        try:
            config = cls(**values)
        except (UsageError, TypeError) as error:
            raise InputError(f"{source}: {error}") from error
        if arch == "mamba2" and content.get("num_heads", config.n_heads) != config.n_heads:
            raise InputError(
                f"{source}: num_heads {content['num_heads']} times head_dim {config.head_dim} is not "
                f"expand * hidden_size = {config.inner_size}"
            )
        return config

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build from our own field names; an unknown field raises UsageError with the nearest valid one."""
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise UsageError(f"model config: unknown field {name!r}; {suggest(name, known)}")
        return cls(**values)
