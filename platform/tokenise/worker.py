"""The workers: one looks a file over, the other reads spans of files and makes a row of every document.

Promises: a row depends on its record and on the tokenizer, on nothing else. A broken record is a row that says why it
has no tokens; more than the limit of them in one shard is an error at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..core.copies import placed
from ..core.errors import InputError
from ..datasets.sources.json_text import Unusable
from ..datasets.tokens.encoding import Encoder
from ..datasets.tokens.folder import document_hash, token_dtype
from ..datasets.tokens.reading import BadLines, Fields
from ..datasets.tokens.spans import Span, SpanReader, survey
from ..datasets.tokens.tokenizer import TokenizerFacts, open_tokenizer

EMPTY = "empty"  # a record without text is left out and is no fault
LIMIT = "--bad-limit"
_SPAN = pa.struct([pa.field(name, pa.string() if name in ("path", "form") else pa.int64()) for name in Span._fields])
SURVEYS = pa.schema(
    [
        pa.field("file", pa.int32(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("spans", pa.list_(_SPAN), nullable=False),
    ]
)
_CHARACTERS = 1 << 20  # that are encoded together


def part_schema() -> pa.Schema:
    """A row for every record: a document with its tokens, or the problem with it and where it is."""
    return pa.schema(
        [
            pa.field("item", pa.int32(), nullable=False),
            pa.field("set", pa.string(), nullable=False),
            pa.field("tokens", pa.large_binary()),  # as tokens.bin has them; a list takes Parquet ten times as long
            pa.field("bytes", pa.uint64(), nullable=False),
            pa.field("hash", pa.uint64(), nullable=False),
            pa.field("problem", pa.string()),
            pa.field("where", pa.string()),
        ]
    )


def make_surveyor(step: int) -> Surveyor:
    """A worker that cuts files into spans of about `step` bytes."""
    return Surveyor(step)


class Surveyor:
    """Looks files over. Items: file (its number), path."""

    def __init__(self, step: int) -> None:
        self._step = step

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """A row for each file."""
        rows: list[dict[str, Any]] = []
        for item in payload["items"]:
            found = survey(item["path"], self._step)
            spans = [span._asdict() for span in found.spans]
            rows.append({"file": item["file"]} | vars(found) | {"spans": spans})
        return pa.Table.from_pylist(rows, schema=SURVEYS)


def make_worker(tokenizer: str, digest: str, field: str, set_field: str, bad_limit: int) -> Tokeniser:
    """A worker from plain JSON, in whatever process it is to live.

    Raises InputError where the folder `tokenizer` does not hold the one with this digest.
    """
    return Tokeniser(tokenizer, digest, Fields(field, set_field), bad_limit)


class Tokeniser:
    """Reads spans of files. Items: item (its number), spans."""

    def __init__(self, tokenizer: str, digest: str, fields: Fields, bad_limit: int) -> None:
        opened, self._facts = open_tokenizer(placed(tokenizer))
        if self._facts.digest != digest:
            raise InputError(f"tokenizer {tokenizer}: is another one here than where the run began; copy it again")
        self._encoder, self._reader, self._bad_limit = Encoder(opened), SpanReader(fields), bad_limit
        self._schema = part_schema()

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """A row for every record of the items, in their order."""
        return pa.concat_tables([self._read(item) for item in payload["items"]])

    def _read(self, item: dict[str, Any]) -> pa.Table:
        rows: list[tuple[str, int, int, str | None, str | None]] = []
        tokens: list[NDArray[Any]] = []
        lengths: list[int] = []  # of documents; those of other rows are null
        bad, waiting, characters = BadLines(self._bad_limit, LIMIT), [], 0

        def encode() -> None:
            flat, offsets = laid_out(*self._encoder.ids(waiting), self._facts)
            tokens.append(flat)
            lengths.extend(np.diff(offsets).tolist())
            waiting.clear()

        for span in (Span(*values) for values in item["spans"]):
            for number, found in self._reader.records(span):
                if isinstance(found, Unusable):
                    bad.add(span.name, number, found)
                    rows.append(("", 0, 0, found.reason, f"{span.name}: line {number} is broken: {found}"))
                elif not found.text.strip():
                    rows.append(("", 0, 0, EMPTY, None))
                else:
                    utf8 = found.text.encode()
                    rows.append((found.set_name, len(utf8), document_hash(utf8), None, None))
                    waiting.append(found.text)
                    characters += len(found.text)
                if characters >= _CHARACTERS:
                    encode()
                    characters = 0
        encode()
        return self._table(item["item"], rows, tokens, lengths)

    def _table(
        self,
        item: int,
        rows: Sequence[tuple[str, int, int, str | None, str | None]],
        tokens: Sequence[NDArray[Any]],
        lengths: Sequence[int],
    ) -> pa.Table:
        sets, sizes, hashes, problems, where = zip(*rows, strict=True) if rows else ((),) * 5
        absent = np.array([problem is not None for problem in problems], dtype=bool)
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        offsets[1:][~absent] = lengths
        values = np.concatenate(tokens)
        values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        there, ends = pa.array(~absent).buffers()[1], pa.py_buffer(np.cumsum(offsets) * values.itemsize)
        schema = self._schema
        columns = [
            pa.array(np.full(len(rows), item, dtype=np.int32)),
            pa.array(sets, pa.string()),
            pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(rows), [there, ends, pa.py_buffer(values)]),
            pa.array(sizes, pa.uint64()),
            pa.array(hashes, pa.uint64()),
            pa.array(problems, pa.string()),
            pa.array(where, pa.string()),
        ]
        return pa.Table.from_arrays(columns, schema=schema)


def laid_out(
    flat: NDArray[np.uint32], offsets: NDArray[np.int64], facts: TokenizerFacts
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Texts' ids (n,) with offsets (texts + 1,) as documents, each as `TokenizerFacts.document` lays it out."""
    empty = facts.document([])
    before = len(facts.begin) or 1
    lengths = np.diff(offsets) + len(empty)
    places = np.zeros(len(offsets), dtype=np.int64)
    np.cumsum(lengths, out=places[1:])
    documents = np.empty(places[-1], dtype=token_dtype(facts.size))
    text = np.ones(len(documents), dtype=bool)
    for number, token in enumerate(empty):
        at = places[:-1] + number if number < before else places[1:] - (len(empty) - number)
        documents[at], text[at] = token, False
    documents[text] = flat
    return documents, places
