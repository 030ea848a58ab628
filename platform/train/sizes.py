"""The size table: a name such as `tiny` or `130m` as the shape of a model.

Promises: the published sizes have the published shapes; `tiny` trains on two CPU cores in under an hour and `nano` in
seconds. The vocabulary is not part of a size: it follows the tokenizer, rounded up as in the published models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import InputError, UsageError, suggest
from .train_config import ModelSection

if TYPE_CHECKING:
    from ..models import ModelConfig


class Size(NamedTuple):
    """Shape of a model: layers, width, and the width N of the recurrent state. An architecture may say otherwise for a
    size (`sizes` of its mixer): Mamba-2 has larger states, MoE-Mamba more blocks."""

    n_layers: int
    d_model: int
    state_size: int = 16


SIZES: dict[str, Size] = {
    "nano": Size(2, 64, 8),
    "tiny": Size(4, 128),
    "1m": Size(4, 192),
    "3m": Size(4, 256),
    "130m": Size(24, 768),
    "370m": Size(48, 1024),
    "780m": Size(48, 1536),
    "790m": Size(48, 1536),
    "1.3b": Size(48, 2048),
    "1.4b": Size(48, 2048),
    "2.7b": Size(64, 2560),
    "2.8b": Size(64, 2560),
}
_ROUND_UP = {"mamba2": 16}  # the original code pads Mamba's vocabulary to a multiple of 8 and Mamba-2's to one of 16


def model_config(
    section: ModelSection, tokenizer_size: int, *, tokenizer_name: str, eos_id: int | None, bos_id: int | None = None
) -> ModelConfig:
    """The model's shape for a tokenizer of `tokenizer_size` tokens. bos_id: default eos_id.

    Raises UsageError for an unknown size or field, InputError where the tokenizer has more tokens than the model.
    """
    from ..models import ModelConfig
    from ..models.mixer import MIXERS

    if section.size not in SIZES:
        raise UsageError(f"unknown size {section.size!r}; {suggest(section.size, SIZES)}")
    size = SIZES[section.size]
    step = _ROUND_UP.get(section.arch, 8)
    vocab_size = section.vocab_size or -(-tokenizer_size // step) * step
    if tokenizer_size > vocab_size:
        raise InputError(
            f"the tokenizer {tokenizer_name} has {tokenizer_size} tokens but model.vocab_size is {vocab_size}; "
            f"leave model.vocab_size out, or set it to at least {tokenizer_size}"
        )
    values: dict[str, Any] = {
        "arch": section.arch,
        "vocab_size": vocab_size,
        "d_model": size.d_model,
        "n_layers": size.n_layers,
        "state_size": size.state_size,
        "bos_token_id": eos_id if bos_id is None else bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
    }
    given = {k: v for k, v in (("d_model", section.d_model), ("n_layers", section.n_layers)) if v is not None}
    return ModelConfig.from_dict(
        values | dict(MIXERS.get(section.arch).sizes.get(section.size, {})) | given | section.options
    )
