"""The worker that reads documents: one model, batches of texts of like length, one row for every document.

Promises: a row depends on its document and on the batch it was planned into, on nothing else; what goes wrong with one
document becomes its status, and its neighbours are read. What is wrong with all alike is an error of the run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ..core.errors import InputError, UsageError
from ..models.decoding.text import added_before, encode_text
from ..models.lending import open_model
from .bits_per_byte import Method, count_words, log_likelihoods

if TYPE_CHECKING:
    from ..models import LanguageModel

DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("set_name", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),  # carried or harness
        pa.field("window", pa.int32(), nullable=False),  # tokens
        pa.field("n_bytes", pa.int64(), nullable=False),
        pa.field("n_words", pa.int64(), nullable=False),
        pa.field("n_tokens", pa.int64()),
        pa.field("log_likelihood", pa.float64()),  # nats, summed over all tokens
        pa.field("status", pa.string(), nullable=False),  # ok, bad_input, model_nonfinite, scorer_error, worker_lost
        pa.field("reason", pa.string()),
    ]
)
DOCUMENT_ORDER = ("document_id",)


def make_worker(
    model: str, model_digest: str, method: Method, window: int, dtype: str = "float32", tokenizer: str | None = None
) -> DocumentWorker:
    """A worker from plain JSON, in whatever process it is to live."""
    return DocumentWorker(open_model(model, model_digest, dtype=dtype, tokenizer=tokenizer), method, window)


def first_token(model: LanguageModel) -> int:
    """The token that the first token of a document is predicted from: the one that the tokenizer puts before a text,
    else its token for the beginning of one, else for its end.

    Raises InputError for a model without a tokenizer, or with one that has neither.
    """
    if model.tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the texts; name one with --tokenizer")
    if added := added_before(model.tokenizer):
        return added[-1]
    begin, end = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    if begin is None and end is None:
        raise InputError(f"the tokenizer of {model.name} has no token that begins or ends a text, none to start from")
    return begin if begin is not None else end  # type: ignore[return-value]


class DocumentWorker:
    """Reads documents with one model. Items: document_id, set_name, text, model."""

    def __init__(self, model: LanguageModel, method: Method, window: int) -> None:
        self._model, self._window = model, window
        self._method: Method = method
        self._first = first_token(model)

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of `payload["items"]`, in their order."""
        items = payload["items"]
        tokens = [self._tokens(item["text"]) for item in items]
        readable = [row for row in tokens if row]
        found = iter(self._read(readable))
        rows = [self._row(item, ids, next(found) if ids else None) for item, ids in zip(items, tokens, strict=True)]
        return pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)

    def _tokens(self, text: str) -> list[int]:
        assert self._model.tokenizer is not None
        encoded = encode_text(self._model.tokenizer, text)
        return list(encoded.ids[encoded.added :])

    def _read(self, documents: list[list[int]]) -> list[float | Exception]:
        try:
            return list(log_likelihoods(self._model, documents, self._first, method=self._method, window=self._window))
        except (UsageError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            if len(documents) == 1:
                return [error]
            return [self._read([document])[0] for document in documents]

    def _row(self, item: dict[str, Any], tokens: list[int], found: float | Exception | None) -> dict[str, Any]:
        row = about(item, self._method, self._window)
        if found is None:
            return row | {"status": "bad_input", "reason": "the tokenizer makes no token of the text"}
        row["n_tokens"] = len(tokens)
        if isinstance(found, Exception):
            status = "bad_input" if isinstance(found, InputError) else "scorer_error"
            return row | {"status": status, "reason": f"{type(found).__name__}: {found}"}
        if not math.isfinite(found):
            return row | {"status": "model_nonfinite", "reason": "the log-likelihood was not finite"}
        return row | {"status": "ok", "log_likelihood": found}


def about(item: dict[str, Any], method: str, window: int) -> dict[str, Any]:
    """The columns that are known of a document before it is read."""
    return {
        "document_id": item["document_id"],
        "set_name": item["set_name"],
        "model": item["model"],
        "method": method,
        "window": window,
        "n_bytes": len(item["text"].encode()),
        "n_words": count_words(item["text"]),
    }
