"""The shape of a model: one frozen dataclass for every architecture, and its Hugging Face config both ways.

`ModelConfig` holds what changes the function a model computes; what only one architecture has stands in `own`, an
instance of its mixer's `options_class`. `from_hf` and `to_hf` translate to `config.json`: of transformers' class where
one computes the same function, else our own, with the architecture as model_type. Nothing here reads files or builds
tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, UsageError, suggest
from .config_checks import FIELDS, INNER, accepted, read_fields, read_options

if TYPE_CHECKING:
    from .mixer import Options

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
# fields that only some architectures use; a mixer lists those it does in `config_fields`
_OPTIONAL = frozenset({"dt_rank", "head_dim", "n_groups", "chunk_size", "dt_limit"})


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of a state-space language model.

    arch: name of a registered mixer ("mamba", "mamba2", "hyena", ...).
    vocab_size, d_model, n_layers: V, d, L. state_size: N. conv_kernel: k taps.
    expand: E / d, with E = int(expand * d_model) as transformers rounds it; kept whole where d divides E, so that
    models of equal widths are equal.
    dt_rank: rank R of the Delta projection (mamba); "auto" is ceil(d / 16).
    head_dim, n_groups: P and G (mamba2); H = E / P heads. chunk_size: kept for other programs; our kernels choose
    their own chunk, which does not change the result.
    dt_min, dt_max, dt_floor: initialisation range of Delta. dt_limit: clamp of Delta (mamba2).
    eos_token_id: the token that ends a text, or several; `models.ends` says what else ends one.
    own: the architecture's own options (`options_class` of its mixer), as an instance or a mapping; None: defaults.
    Raises UsageError for a value that cannot be, and for an architecture that is none.
    """

    arch: str
    vocab_size: int
    d_model: int
    n_layers: int
    state_size: int = 16
    expand: int | float = 2
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
    eos_token_id: int | tuple[int, ...] | None = 0
    pad_token_id: int | None = 0
    own: Any = None

    def __post_init__(self) -> None:
        from .mixer import full_name, get

        object.__setattr__(self, "arch", full_name(self.arch))
        architecture = get(self.arch)
        for field in fields(self):  # what the architecture does not use keeps its default: equal models, equal configs
            if field.name in _OPTIONAL and field.name not in architecture.config_fields:
                object.__setattr__(self, field.name, field.default)
        object.__setattr__(self, "own", _own_options(self.arch, architecture.options_class, self.own))
        for name, rule in FIELDS.items():
            object.__setattr__(self, name, accepted(rule, name, getattr(self, name), "model config", UsageError))
        if self.inner_size < 1:
            raise UsageError(f"model config: expand {self.expand!r} leaves no channel of {self.d_model}")
        object.__setattr__(self, "expand", _ratio(self.inner_size, self.d_model))
        if self.dt_rank == "auto":
            object.__setattr__(self, "dt_rank", math.ceil(self.d_model / 16))
        architecture.check(self)

    @property
    def inner_size(self) -> int:
        """E, the width of the recurrent branch."""
        return int(self.expand * self.d_model)

    @property
    def n_heads(self) -> int:
        """H, the number of heads (mamba2)."""
        return self.inner_size // self.head_dim

    def to_hf(self) -> dict[str, Any]:
        """The content of `config.json` for this model."""
        from .mixer import get

        architecture = get(self.arch)
        content: dict[str, Any] = {
            "architectures": [architecture.hf_class or "MplatForCausalLM"],
            "model_type": self.arch,
        }
        for ours, theirs in (_HF_NAMES | _specific_names(self.arch)).items():
            value = getattr(self, ours)
            content[theirs] = list(value) if isinstance(value, tuple) else value
        if architecture.hf_class is None:
            return content | {"dt_limit": None if self._any_delta else list(self.dt_limit)} | self.own.written()
        # rescale_prenorm_residual stays false: with true, transformers 5.23 divides the out_proj it has just loaded
        content |= {"hidden_act": "silu", "rescale_prenorm_residual": False, "intermediate_size": self.inner_size}
        if architecture.hf_inner is not None:  # transformers wants a whole factor, and reads the width beside it
            content["expand"] = max(1, int(self.expand))
        if "head_dim" in architecture.config_fields:
            content["num_heads"] = self.n_heads
            if not self._any_delta:  # the default contains infinity, which JSON cannot hold
                content["time_step_limit"] = list(self.dt_limit)
        return content | self.own.written()

    @property
    def _any_delta(self) -> bool:
        return self.dt_limit == (0.0, math.inf)

    @classmethod
    def from_hf(cls, content: Mapping[str, Any], *, source: str = "config.json") -> ModelConfig:
        """Read a `config.json`. Raises InputError where this program cannot compute the same function."""
        from .mixer import get, names

        arch = content.get("model_type")
        if arch not in names():
            raise InputError(f"{source}: model_type {arch!r} is not supported; {suggest(str(arch), names())}")
        architecture = get(str(arch))
        if content.get("hidden_act", "silu") not in ("silu", "swish"):
            raise InputError(f"{source}: hidden_act {content['hidden_act']!r} is not supported; only silu is")
        of_transformers = architecture.hf_class is not None
        values: dict[str, Any] = {"arch": arch} | (dict(architecture.hf_defaults) if of_transformers else {})
        limit: dict[str, str] = {}
        if not of_transformers and content.get("dt_limit") is not None:
            limit = {"dt_limit": "dt_limit"}  # our own files say null where every Delta will do
        elif of_transformers and "dt_limit" in architecture.config_fields:
            limit = {"dt_limit": "time_step_limit"}
        values |= read_fields(content, _HF_NAMES | _specific_names(str(arch)) | limit, source)
        if of_transformers and architecture.hf_inner is not None and architecture.hf_inner in content:
            inner = accepted(INNER, architecture.hf_inner, content[architecture.hf_inner], source)
            values["expand"] = _ratio(inner, values["d_model"])
        values["own"] = read_options(architecture.options_class, content, source)
        try:
            config = cls(**values)
        except (UsageError, TypeError) as error:
            raise InputError(f"{source}: {error}") from error
        architecture.check_hf(content, config, source)
        return config

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build from our own field names, an architecture's own options among them.

        An unknown field raises UsageError with the nearest valid one.
        """
        from .mixer import get

        known = {f.name for f in fields(cls)} - {"own"}
        own = {f.name for f in fields(get(str(values.get("arch"))).options_class)}
        for name in values:
            if name not in known | own:
                raise UsageError(f"model config: unknown field {name!r}; {suggest(name, known | own)}")
        common = {k: v for k, v in values.items() if k in known}
        return cls(**common, own={k: v for k, v in values.items() if k in own})


def _ratio(inner: int, d_model: int) -> int | float:
    """The factor that `inner_size` turns back into `inner`."""
    if inner % d_model == 0:
        return inner // d_model
    ratio = inner / d_model
    return ratio if int(ratio * d_model) == inner else math.nextafter(ratio, math.inf)


def _specific_names(arch: str) -> dict[str, str]:
    """Field -> name in config.json, for the fields that only some architectures have."""
    from .mixer import get

    architecture = get(arch)
    if architecture.hf_class is not None:
        return dict(architecture.hf_names)
    return {n: n for n in sorted(architecture.config_fields - {"dt_limit"})}


def _own_options(arch: str, options_class: type[Options], given: Any) -> Options:
    """`given` (None, a mapping or an instance) as an instance."""
    if isinstance(given, options_class):
        return given
    values = dict(given or {}) if given is None or isinstance(given, Mapping) else None
    known = {f.name for f in fields(options_class)}
    if values is None or not values.keys() <= known:
        wrong = "own" if values is None else sorted(values.keys() - known)[0]
        raise UsageError(f"model config: {arch} has no option {wrong!r}; {suggest(wrong, known)}")
    return options_class(**read_options(options_class, values, "model config", UsageError))
