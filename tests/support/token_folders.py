"""Token folders as `mplat tokenize` writes them, made of texts or of plain tokens; not a test file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mplat.datasets.tokens.folder import Counts, Manifest, document_hash
from mplat.datasets.tokens.tokenizer import FILES, SHIPPED, open_tokenizer


def write_texts(folder: Path, documents: Sequence[tuple[str, str]], tokenizer: Path = SHIPPED) -> Path:
    """A folder of (set, text)."""
    encoder, facts = open_tokenizer(tokenizer)
    rows = [
        (name, facts.document(encoder.encode(text, add_special_tokens=False).ids), text.encode())
        for name, text in documents
    ]
    return write(folder, rows, tokenizer)


def write_tokens(folder: Path, documents: Sequence[tuple[str, Sequence[int]]], dtype: str = "uint16") -> Path:
    """A folder of (set, tokens) behind the shipped tokenizer's opening token, each taken to have a byte a token."""
    rows = [(name, [0, *tokens], np.array(tokens, np.uint32).tobytes()) for name, tokens in documents]
    return write(folder, [(n, t, text) for n, t, text in rows], SHIPPED, dtype)


def write(
    folder: Path, rows: Sequence[tuple[str, Sequence[int], bytes]], tokenizer: Path, dtype: str = "uint16"
) -> Path:
    """rows: set, all tokens of the document, the bytes of its text."""
    (folder / "tokenizer").mkdir(parents=True)
    for name in FILES:
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder / "tokenizer" / name)
    lengths = [len(tokens) for _, tokens, _ in rows]
    np.concatenate([np.array(tokens, dtype=dtype) for _, tokens, _ in rows]).tofile(folder / "tokens.bin")
    table = pa.table(
        {
            "set": pa.array([name for name, _, _ in rows], pa.string()),
            "offset": pa.array(np.cumsum([0, *lengths[:-1]]), pa.uint64()),
            "tokens": pa.array(lengths, pa.uint32()),
            "bytes": pa.array([len(text) for _, _, text in rows], pa.uint64()),
            "hash": pa.array([document_hash(text) for _, _, text in rows], pa.uint64()),
        }
    )
    pq.write_table(table, folder / "documents.parquet")
    facts = open_tokenizer(tokenizer)[1]
    counts = {
        name: Counts(documents=len(of), bytes=sum(b for _, b in of), tokens=sum(n for n, _ in of))
        for name in sorted({name for name, _, _ in rows})
        if (of := [(len(tokens), len(text)) for own, tokens, text in rows if own == name])
    }
    manifest = Manifest(
        tokenizer=facts.digest, vocabulary=facts.size, eos_id=facts.eos_id, begin=list(facts.begin), dtype=dtype,
        total=Counts(documents=len(rows), bytes=sum(len(text) for _, _, text in rows), tokens=sum(lengths)),
        sets=counts, left_out={}, sources=[],
        files={
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("tokens.bin", "documents.parquet")
        },
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder
