"""Several token folders as one list of documents, all of one tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ..readers.pile import OWN_SET
from .folder import TABLE, TOKENS, TokenFolder

_CHUNK = 1 << 24  # tokens looked at together


@dataclass(frozen=True)
class Documents:
    """A row a document, in the order of tokens.bin. set (n,): its number in `sets`; the rest (n,) as in the file."""

    sets: tuple[str, ...]
    set: NDArray[np.int32]
    offset: NDArray[np.int64]
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]
    hash: NDArray[np.uint64]


def documents_of(folder: TokenFolder) -> Documents:
    """Raises InputError for a folder without documents, and where they do not follow each other without gaps."""
    table = folder.documents
    names = table.column("set").combine_chunks().dictionary_encode()
    offset, tokens, size = (table.column(name).to_numpy().astype(np.int64) for name in ("offset", "tokens", "bytes"))
    ends = np.cumsum(tokens)
    if not len(ends):
        raise InputError(f"{folder.path}: holds no document; tokenise a corpus that has some")
    if (offset != ends - tokens).any() or ends[-1] != len(folder.tokens):
        raise InputError(
            f"{folder.path / TABLE}: damaged, documents do not follow each other without gaps; tokenise the files again"
        )
    sets = tuple(names.dictionary.to_pylist())
    codes = np.asarray(names.indices.to_numpy(), dtype=np.int32)
    return Documents(sets, codes, offset, tokens, size, table.column("hash").to_numpy().astype(np.uint64))


@dataclass(frozen=True)
class Corpus:
    """documents: of all folders in their order, offsets within their own folder, sets sorted by name, documents of no
    set in the set "own". folder (n,): the number of each document's folder."""

    folders: tuple[TokenFolder, ...]
    documents: Documents
    folder: NDArray[np.int32]

    @classmethod
    def open(cls, paths: Sequence[Path | str]) -> Corpus:
        """Raises InputError for a folder that cannot be used, and for folders of different tokenizers."""
        folders = tuple(TokenFolder.open(Path(path)) for path in paths)
        if not folders:
            raise InputError("data.source is tokens but data.tokens.paths is empty; give a folder with --data FOLDER")
        for folder in folders[1:]:
            if folder.manifest.tokenizer != folders[0].manifest.tokenizer:
                raise InputError(
                    f"{folder.path} was made with another tokenizer than {folders[0].path}; tokenise both with one"
                )
        parts = [documents_of(folder) for folder in folders]
        names = [[name or OWN_SET for name in part.sets] for part in parts]
        sets = tuple(sorted({name for part in names for name in part}))
        number = {name: i for i, name in enumerate(sets)}
        codes = [
            np.array([number[name] for name in here], dtype=np.int32)[part.set]
            for here, part in zip(names, parts, strict=True)
        ]
        documents = Documents(
            sets,
            np.concatenate(codes),
            np.concatenate([part.offset for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.bytes for part in parts]),
            np.concatenate([part.hash for part in parts]),
        )
        folder = np.repeat(np.arange(len(folders), dtype=np.int32), [len(part.hash) for part in parts])
        return cls(folders, documents, folder)

    @property
    def digest(self) -> str:
        """sha256 of what the folders hold, in their order."""
        return hashlib.sha256("".join(folder.digest for folder in self.folders).encode()).hexdigest()

    def document(self, number: int) -> NDArray[np.unsignedinteger]:
        """The tokens of one document, with what opens (and closes) it."""
        first = self.documents.offset[number]
        return self.folders[self.folder[number]].tokens[first : first + self.documents.tokens[number]]

    def check_vocabulary(self, size: int) -> None:
        """Read all tokens. Raises InputError naming the first one that is not below `size`."""
        for folder in self.folders:
            if size > np.iinfo(folder.tokens.dtype).max:
                continue
            for first in range(0, len(folder.tokens), _CHUNK):
                chunk = folder.tokens[first : first + _CHUNK]
                if chunk.max() < size:
                    continue
                at = first + int(np.argmax(chunk >= size))
                offsets = documents_of(folder).offset
                document = int(np.searchsorted(offsets, at, side="right")) - 1
                raise InputError(
                    f"{folder.path / TOKENS}: token {at - offsets[document]} of document {document} "
                    f"is {folder.tokens[at]}, beyond the tokenizer's {size:,}; tokenise the files again"
                )
