"""`MplatConfig`: our config.json as a configuration of transformers. Imports transformers; see `transformers_auto`."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


class MplatConfig(PreTrainedConfig):
    """Base of the configurations of our own architectures; read them from a folder or a dict.

    `given` is the content as it was read. transformers takes some names for settings of its text generation and drops
    them (`max_length`, `top_k`), but they are shapes here.
    """

    model_type = "mplat"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        found = super().from_dict(dict(config_dict), **kwargs)
        config = found[0] if isinstance(found, tuple) else found
        config.given = dict(config_dict)
        return found

    @property
    def max_position_embeddings(self) -> int:
        """How many tokens a token can see, under the name by which others ask for it; only of models with a limit."""
        limit = (self.__dict__.get("given") or {}).get("max_length")
        if limit is None:
            raise AttributeError(f"{type(self).__name__} has no limit to what a token sees")
        return limit

    def to_dict(self) -> dict[str, Any]:
        content = super().to_dict()
        return (content.pop("given", None) or {}) | content
