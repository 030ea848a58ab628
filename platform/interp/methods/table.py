"""The table of a trace: one row per site, layer and position, and in the schema's metadata what the numbers belong to.

Metadata, all text, numbers as Python's `repr`: p_clean, p_corrupted (probabilities of the answer; of the corrupted runs
the mean), metric, metric_clean, metric_corrupted, answer (token id), answer_given, predicted (what the clean run finds
most probable), foil, corruption ("noise" or "replacement"), noise (its standard deviation), seed, subject
("start:stop"), window, length, model (its name). What does not apply is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..engine.columns import column

if TYPE_CHECKING:
    from ...models import LanguageModel

SCHEMA = pa.schema([
    column("site", pa.string(), "what was restored; several sites joined by +"),
    column("layer", pa.int32(), "block, or the centre of the window of blocks"),
    column("position", pa.int32(), "token position, from 0"),
    column("token", pa.string(), "the clean prompt's token there; its id for a model without tokenizer"),
    column("effect", pa.float64(), "mean over samples of the restored run's metric minus the corrupted run's"),
    column("effect_std", pa.float64(), "unbiased standard deviation of that difference over samples; null for one"),
    column("samples", pa.int32(), "corrupted runs"),
])  # fmt: skip


def trace_table(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> pa.Table:
    """The rows in their order, with `about` as metadata; entries that are None are left out."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA.with_metadata(text_metadata(about)))


def text_metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """`about` as a schema holds it; entries that are None are left out."""
    return {key: _text(value) for key, value in about.items() if value is not None}


def about(table: pa.Table) -> dict[str, str]:
    """The metadata of a trace."""
    metadata: dict[bytes, bytes] = table.schema.metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def token_labels(model: LanguageModel, tokens: Sequence[int]) -> list[str]:
    """What each token says; its id for a model without tokenizer."""
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        return [str(token) for token in tokens]
    return [str(tokenizer.decode([token], clean_up_tokenization_spaces=False)) for token in tokens]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
