"""A token folder: documents as tokens on disk, made once by `mplat tokenize` and read by all who train on them.

    manifest.json      what is in it, from what, the sha256 of every file; written last: without it there is no folder
    tokenizer/         the tokenizer's files
    tokens.bin         all documents in the order of the corpus, raw little-endian uint16 or uint32, each with its
                       opening token (`TokenizerFacts.document`)
    documents.parquet  a row for every document, in the same order (`DOCUMENTS`)

    folder = TokenFolder.open(Path("tokens"))
    first = folder.tokens[: folder.documents["tokens"][0].as_py()]

Nothing here splits, mixes or drops: what is held out and what weighs how much is decided when it is read, from each
document's hash, so that it is the same whatever the order of the files was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...core.config import Config
from ...core.errors import InputError
from ...core.inside import leads_down
from ...core.json_files import read_object
from ...core.whole_files import first_line, read_table
from ...runtime.plan import digest_of
from .tokenizer import TokenizerFacts

FORMAT = 1
MANIFEST, TOKENS, TABLE, TOKENIZER = "manifest.json", "tokens.bin", "documents.parquet", "tokenizer"
DOCUMENTS = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),  # such as The Pile's; "" where the record names none
        pa.field("offset", pa.uint64(), nullable=False),  # its first token in tokens.bin
        pa.field("tokens", pa.uint32(), nullable=False),  # with its opening token
        pa.field("bytes", pa.uint64(), nullable=False),  # UTF-8 of its text
        pa.field("hash", pa.uint64(), nullable=False),  # `document_hash`
    ]
)
_ADVICE = "make it again with `mplat tokenize`"


class Counts(Config):
    """How much there is."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0


class Source(Config):
    """A file that was read, as it was."""

    name: str
    bytes: int
    sha256: str


class Manifest(Config):
    """manifest.json."""

    format: int = FORMAT
    tokenizer: str
    """Digest of the tokenizer's files."""
    vocabulary: int
    eos_id: int
    begin: list[int]
    """Ids that the tokenizer puts before a text; where there are none, the end-of-text token opens a document."""
    dtype: str
    total: Counts
    sets: dict[str, Counts]
    left_out: dict[str, int]
    """Records that are no documents, by reason."""
    sources: list[Source]
    files: dict[str, str]
    """Name below the folder -> sha256."""


def is_token_folder(path: Path | str) -> bool:
    """Whether `path` looks like such a folder, whole or damaged."""
    return (Path(path) / MANIFEST).is_file() and ((Path(path) / TOKENS).exists() or (Path(path) / TABLE).exists())


def document_hash(text: bytes) -> int:
    """The first 8 bytes, little-endian, of blake2b (digest of 8 bytes) of a text in UTF-8."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def token_dtype(vocabulary: int) -> np.dtype[Any]:
    """The type of tokens.bin: uint16 where every id fits, else uint32; little-endian."""
    return np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")


@dataclass(frozen=True)
class TokenFolder:
    """An open folder; `tokens` is memory-mapped."""

    path: Path
    manifest: Manifest
    tokens: NDArray[np.unsignedinteger[Any]]

    @classmethod
    def open(cls, path: Path) -> TokenFolder:
        """Open the folder `path`. Its files must have the lengths that the manifest says; `verify` looks at every byte.

        Raises InputError where there is no whole token folder.
        """
        place = path / MANIFEST
        if not place.is_file():
            raise InputError(f"{path}: is no token folder, it has no {MANIFEST}; {_ADVICE}")
        values = read_object(place)
        if values.get("format") != FORMAT:
            raise InputError(f"{place}: has format {values.get('format')}, this mplat reads {FORMAT}; {_ADVICE}")
        try:
            manifest = Manifest.model_validate(values, strict=True)
        except ValueError as error:
            raise InputError(f"{place}: is damaged ({str(error).splitlines()[1]}); {_ADVICE}") from error
        dtype, total = np.dtype(manifest.dtype).newbyteorder("<"), manifest.total
        try:
            size = (path / TOKENS).stat().st_size
            rows = pq.ParquetFile(path / TABLE).metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: is not whole ({first_line(error)}); {_ADVICE}") from error
        if (size, rows) != (total.tokens * dtype.itemsize, total.documents):
            raise InputError(
                f"{path}: {TOKENS} has {size} bytes and {TABLE} {rows} rows, where {MANIFEST} says "
                f"{total.tokens * dtype.itemsize} and {total.documents}; {_ADVICE}"
            )
        return cls(path, manifest, np.memmap(path / TOKENS, dtype=dtype, mode="r"))

    @property
    def tokenizer(self) -> TokenizerFacts:
        """The tokenizer, as it lies in the folder."""
        about = self.manifest
        return TokenizerFacts(
            self.path / TOKENIZER, about.vocabulary, about.eos_id, about.tokenizer, tuple(about.begin)
        )

    @property
    def digest(self) -> str:
        """sha256 over what is in the folder, wherever it came from."""
        return digest_of(self.manifest.files)

    @cached_property
    def documents(self) -> pa.Table:
        """A row for every document, as `DOCUMENTS`. Raises InputError where the file is damaged."""
        return read_table(self.path / TABLE, self.manifest.files.get(TABLE), advice=_ADVICE)

    def columns(self, *names: str) -> pa.Table:
        """Some columns of `documents`. Raises InputError where the file is damaged."""
        try:
            return pq.read_table(
                self.path / TABLE, columns=list(names), page_checksum_verification=True, use_threads=False
            )
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.path / TABLE}: is damaged ({first_line(error)}); {_ADVICE}") from error

    def verify(self) -> None:
        """Read everything once. Raises InputError naming the first file that is not what the manifest says."""
        for name, digest in self.manifest.files.items():
            if not leads_down(name, deep=True):
                raise InputError(f"{self.path / MANIFEST}: names a file outside of its folder, {name!r}; {_ADVICE}")
            try:
                with (self.path / name).open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise InputError(f"{self.path / name}: cannot be read ({error.strerror}); {_ADVICE}") from error
            if found != digest:
                raise InputError(
                    f"{self.path / name}: damaged, its sha256 is {found[:16]} and was {digest[:16]}; {_ADVICE}"
                )
