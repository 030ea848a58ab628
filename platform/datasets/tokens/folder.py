"""A folder of tokenised documents: opened, memory-mapped, and refused where its parts do not fit together.

manifest.json      format, tokenizer, dtype, sha256 of every file
tokenizer/         the tokenizer itself
tokens.bin         all documents one behind the other, raw little-endian uint16 or uint32
documents.parquet  a row a document: set, offset (its first token), tokens, bytes (UTF-8 of its text), hash (of it)

Opening checks that every document lies where its row says and that tokens.bin is as long as that; `check` reads
tokens.bin and compares its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.json_files import read_object
from ...core.whole_files import read_table

FORMAT = 1
MANIFEST, TOKENS, DOCUMENTS, TOKENIZER = "manifest.json", "tokens.bin", "documents.parquet", "tokenizer"
_DTYPES = ("uint16", "uint32")
_AGAIN = "make the folder again with mplat tokenize"


@dataclass(frozen=True)
class Documents:
    """A row a document, in the order of tokens.bin. set (n,): its number in `sets`; the rest (n,) as in the file."""

    sets: tuple[str, ...]
    set: NDArray[np.int32]
    offset: NDArray[np.int64]
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]
    hash: NDArray[np.uint64]


@dataclass(frozen=True)
class TokenFolder:
    """An open folder; `tokens` (N,) is a memory map."""

    path: Path
    manifest: Mapping[str, Any]
    tokens: NDArray[np.unsignedinteger]
    documents: Documents

    @classmethod
    def open(cls, path: Path | str) -> TokenFolder:
        """Raises InputError where something is missing, damaged or shorter than it should be."""
        path = Path(path)
        manifest = read_object(path / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise InputError(
                f"{path / MANIFEST}: format {manifest.get('format', 'none')}, this version reads {FORMAT}; {_AGAIN}"
            )
        try:
            dtype, digest = manifest["dtype"], manifest["files"][DOCUMENTS]
            if dtype not in _DTYPES or not isinstance(manifest["tokenizer"]["digest"], str):
                raise TypeError(f"dtype {dtype!r}")
        except (KeyError, TypeError) as error:
            raise InputError(f"{path / MANIFEST}: damaged ({error}); {_AGAIN}") from error
        documents = _documents(path / DOCUMENTS, digest)
        item = np.dtype(dtype).newbyteorder("<")
        ends = np.cumsum(documents.tokens)
        if not len(ends):
            raise InputError(f"{path}: holds no document; {_AGAIN}")
        if (documents.offset != ends - documents.tokens).any():
            raise InputError(f"{path / DOCUMENTS}: damaged, documents do not follow each other without gaps; {_AGAIN}")
        try:
            size = (path / TOKENS).stat().st_size
        except OSError as error:
            raise InputError(f"{path / TOKENS}: cannot be read ({error.strerror}); {_AGAIN}") from error
        if size != ends[-1] * item.itemsize:
            raise InputError(
                f"{path / TOKENS}: {size:,} bytes instead of the {ends[-1] * item.itemsize:,} of its documents; "
                f"{_AGAIN}"
            )
        return cls(path, manifest, np.memmap(path / TOKENS, dtype=item, mode="r"), documents)

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer that made it."""
        return self.path / TOKENIZER

    @property
    def tokenizer_digest(self) -> str:
        """As `TokenizerFacts.digest`."""
        return self.manifest["tokenizer"]["digest"]

    @property
    def digest(self) -> str:
        """sha256 of what the files hold, as the manifest has it."""
        files = self.manifest["files"]
        return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode()).hexdigest()

    def check(self) -> None:
        """Read tokens.bin whole. Raises InputError where its digest is not that of the manifest."""
        with (self.path / TOKENS).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.manifest["files"][TOKENS]:
            raise InputError(f"{self.path / TOKENS}: damaged, its sha256 is not that of {MANIFEST}; {_AGAIN}")


def is_token_folder(path: Path | str) -> bool:
    """Whether `path` looks like such a folder, whole or damaged."""
    return (Path(path) / MANIFEST).is_file() and ((Path(path) / TOKENS).exists() or (Path(path) / DOCUMENTS).exists())


def _documents(path: Path, digest: str) -> Documents:
    table = read_table(path, digest, advice=_AGAIN)
    try:
        names = table.column("set").combine_chunks().dictionary_encode()
        columns = [table.column(name).to_numpy() for name in ("offset", "tokens", "bytes", "hash")]
        offset, tokens, size = (np.asarray(column, dtype=np.int64) for column in columns[:3])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a table of documents ({error}); {_AGAIN}") from error
    sets = tuple(names.dictionary.to_pylist())
    codes = np.asarray(names.indices.to_numpy(), dtype=np.int32)
    return Documents(sets, codes, offset, tokens, size, np.asarray(columns[3], dtype=np.uint64))
