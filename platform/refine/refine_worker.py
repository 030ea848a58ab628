"""The worker that scores chunks: one model, batches of chunks of like length, one row for every chunk.

Promises: a row depends on its chunk and on the batch it was planned into, on nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..models.decoding.likelihoods import WINDOWS
from ..models.decoding.scored_texts import first_token, score_texts
from ..models.lending import open_model

if TYPE_CHECKING:
    from ..models import LanguageModel

CHUNK_SCHEMA = pa.schema(
    [
        pa.field("chunk", pa.int64(), nullable=False),
        pa.field("n_tokens", pa.int64()),
        pa.field("log_likelihood", pa.float64()),  # nats, summed over all tokens
        pa.field("status", pa.string(), nullable=False),  # ok, bad_input, model_nonfinite, scorer_error, worker_lost
        pa.field("reason", pa.string()),
    ]
)
CHUNK_ORDER = ("chunk",)


def make_worker(
    model: str, model_digest: str, device: str = "cpu", dtype: str = "float32", tokenizer: str | None = None
) -> ChunkWorker:
    """A worker from plain JSON, in whatever process it is to live."""
    return ChunkWorker(open_model(model, model_digest, device, dtype, tokenizer))


class ChunkWorker:
    """Scores chunks with one model. Items: chunk, text. Of a chunk longer than a window the state is carried."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        first_token(model)

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of `payload["items"]`, in their order."""
        items = payload["items"]
        texts = [item["text"] for item in items]
        found = score_texts(self._model, texts, method="carried", window=WINDOWS["carried"])
        rows = [{"chunk": item["chunk"], **text._asdict()} for item, text in zip(items, found, strict=True)]
        return pa.Table.from_pylist(rows, schema=CHUNK_SCHEMA)
