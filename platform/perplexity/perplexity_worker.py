"""The worker that reads documents: one model, batches of texts of like length, one row for every document.

Promises: a row depends on its document and on the batch it was planned into, on nothing else; what goes wrong with one
document becomes its status, and its neighbours are read. What is wrong with all alike is an error of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..models.decoding.likelihoods import Method
from ..models.decoding.scored_texts import first_token, score_texts
from ..models.lending import open_model
from .bits_per_byte import count_words

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
    model: str,
    model_digest: str,
    method: Method,
    window: int,
    device: str = "cpu",
    dtype: str = "float32",
    tokenizer: str | None = None,
) -> DocumentWorker:
    """A worker from plain JSON, in whatever process it is to live."""
    return DocumentWorker(open_model(model, model_digest, device, dtype, tokenizer), method, window)


class DocumentWorker:
    """Reads documents with one model. Items: document_id, set_name, text, model."""

    def __init__(self, model: LanguageModel, method: Method, window: int) -> None:
        self._model, self._window = model, window
        self._method: Method = method
        first_token(model)

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of `payload["items"]`, in their order."""
        items = payload["items"]
        texts = [item["text"] for item in items]
        found = score_texts(self._model, texts, method=self._method, window=self._window)
        rows = [about(i, self._method, self._window) | f._asdict() for i, f in zip(items, found, strict=True)]
        return pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)


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
