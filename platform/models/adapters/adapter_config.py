"""The shape of an adapted model: transformers' configuration, with the names the rest of the platform asks for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError
from .value_checks import check_values

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# what depends on the version that wrote a file, or is said elsewhere, and not on the function the model computes
_NOT_SHAPE = frozenset({"transformers_version", "dtype", "torch_dtype", "_name_or_path", "use_cache"})


@dataclass(frozen=True)
class AdaptedConfig:
    """Configuration of an adapted model.

    arch: the name that steering and reports use, "transformer" for GPT-2 and GPT-NeoX, else the model_type.
    content: what config.json says, with transformers' names and defaults filled in.
    """

    arch: str
    content: Mapping[str, Any]

    @classmethod
    def from_hf(cls, content: Mapping[str, Any], *, source: str = "config.json") -> AdaptedConfig:
        """Read a `config.json` of a model_type that has an adapter.

        Raises InputError for values that transformers refuses, or that change the function in a way we do not compute.
        """
        from .adapter import get

        model_type = str(content.get("model_type"))
        adapter = get(model_type)
        content = check_values(_class_of(model_type), content, source)
        try:
            hf = _hf_config(model_type, content)
        except Exception as error:  # transformers raises a dozen kinds for a field it refuses
            reason = " ".join(str(error).split())
            raise InputError(f"{source}: not a configuration of {model_type} ({reason})") from error
        try:
            adapter.check(hf)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        filled = json.loads(hf.to_json_string(use_diff=True))
        filled = {k: v for k, v in filled.items() if k not in _NOT_SHAPE} | {"architectures": [adapter.hf_class]}
        return cls(adapter.arch or model_type, filled)

    def to_hf(self) -> dict[str, Any]:
        """The content of `config.json` for this model."""
        written = json.loads(json.dumps(self.content))
        return written if self.tie_embeddings else written | {"tie_word_embeddings": False}

    @cached_property
    def hf(self) -> PreTrainedConfig:
        """transformers' object of this configuration; not to be changed."""
        return _hf_config(self.model_type, self.content)

    @property
    def model_type(self) -> str:
        return str(self.content["model_type"])

    @property
    def vocab_size(self) -> int:
        return self.hf.vocab_size

    @property
    def d_model(self) -> int:
        return self.hf.hidden_size

    @property
    def n_layers(self) -> int:
        return self.hf.num_hidden_layers

    @property
    def tie_embeddings(self) -> bool:
        from .adapter import get

        return bool(self.hf.tie_word_embeddings) and get(self.model_type).can_tie

    @property
    def residual_in_fp32(self) -> bool:
        """Always False: transformers keeps the residual stream of these types in the model's dtype."""
        return False

    @property
    def bos_token_id(self) -> int | None:
        return _one(self.hf.bos_token_id)

    @property
    def eos_token_id(self) -> int | tuple[int, ...] | None:
        """As in `ModelConfig`: several where config.json has a list."""
        value = self.hf.eos_token_id
        return tuple(value) if isinstance(value, list) else value

    @property
    def pad_token_id(self) -> int | None:
        return _one(self.hf.pad_token_id)


def _one(value: int | list[int] | None) -> int | None:
    return value[0] if isinstance(value, list) else value


def _class_of(model_type: str) -> type[PreTrainedConfig]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


def _hf_config(model_type: str, content: Mapping[str, Any]) -> PreTrainedConfig:
    return _class_of(model_type).from_dict(_with_infinities(content))


def _with_infinities(value: Any) -> Any:
    """JSON has no infinity; transformers writes {"__float__": "Infinity"}."""
    if isinstance(value, Mapping):
        if value.keys() == {"__float__"}:
            with contextlib.suppress(ValueError):
                return float(value["__float__"])
        return {k: _with_infinities(v) for k, v in value.items()}
    return [_with_infinities(v) for v in value] if isinstance(value, list) else value
