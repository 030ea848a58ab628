"""Text tokenised once: documents of several files as one stream of tokens on disk, for training and for evaluation.

A stream is `<eos> document <eos> document ...`: the end-of-text token opens every document, which makes it both the
separator and the context from which a document's first token is predicted. A tokenizer that puts a token before every
text itself (BOS) gives `<bos> document <eos> <bos> document <eos> ...`, texts as it gives them to a reader. Every k-th
document goes to the held-out stream until that is long enough. A store is a folder named by its key (digests of files
and tokenizer, reading options): tokens as raw uint16 or uint32, meta.json written last, the whole renamed into place; a
half-written store has another name.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, ValidationError

from ..core.config import Config
from ..core.errors import InputError
from ..core.json_files import read_object
from ..datasets.tokens.reading import BadLines, documents
from ..datasets.tokens.tokenizer import TokenizerFacts
from ..datasets.word_order import shuffled_words
from .data_sections import TextSection

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_VERSION = 1
_BATCH_CHARACTERS = 1 << 20


class StoreFacts(Config):
    """meta.json of a store."""

    key: str
    dtype: Literal["uint16", "uint32"]
    documents: NonNegativeInt
    train_tokens: NonNegativeInt
    holdout_documents: NonNegativeInt
    holdout_tokens: NonNegativeInt
    holdout_bytes: NonNegativeInt  # UTF-8 bytes of the held-out documents, for bits per byte
    bad_lines: dict[str, int]


@dataclass(frozen=True)
class TokenStore:
    """A store, opened: both streams are memory-mapped."""

    facts: StoreFacts
    train: NDArray[np.unsignedinteger]
    holdout: NDArray[np.unsignedinteger]


def store_key(section: TextSection, tokenizer: TokenizerFacts) -> str:
    """Digest of everything that decides a store's content. Raises InputError for files that cannot be read."""
    if not section.paths:
        raise InputError("data.source is text but data.text.paths is empty; give a file with --data FILE")
    parts = [
        _VERSION,
        tokenizer.digest,
        section.field,
        section.bad_line_limit,
        section.holdout_every,
        section.holdout_tokens,
        *tokenizer.begin,
        *(["shuffled words"] if section.shuffle_words else []),
    ]
    for name in section.paths:
        try:
            with Path(name).open("rb") as file:
                parts.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InputError(f"data file {name}: cannot be read ({error.strerror}); check data.text.paths") from error
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def open_store(folder: Path, section: TextSection, encoder: Tokenizer, tokenizer: TokenizerFacts) -> TokenStore:
    """The store for these files and this tokenizer under `folder`, made if it is not there."""
    key = store_key(section, tokenizer)
    place = folder / key[:16]
    facts = _read_facts(place, key)
    if facts is None:
        _make(place, key, section, encoder, tokenizer)
        facts = _read_facts(place, key)
        assert facts is not None
    dtype = np.dtype(facts.dtype)
    train, holdout = (np.memmap(place / name, dtype=dtype, mode="r") for name in ("train.bin", "holdout.bin"))
    if (len(train), len(holdout)) != (facts.train_tokens, facts.holdout_tokens):
        raise InputError(f"{place}: token files are not as long as meta.json says; delete the folder, it is made again")
    return TokenStore(facts, train, holdout)


def _read_facts(place: Path, key: str) -> StoreFacts | None:
    path, advice = place / "meta.json", "delete the folder, it is made again"
    if not path.exists():
        return None
    try:
        facts = StoreFacts.model_validate(read_object(path, advice=advice), strict=True)
    except ValidationError as error:
        raise InputError(f"{path}: is damaged ({str(error).splitlines()[1]}); {advice}") from error
    if facts.key != key:
        raise InputError(f"{place} holds another store; delete the folder, or choose another data.text.cache")
    return facts


def _make(place: Path, key: str, section: TextSection, encoder: Tokenizer, tokenizer: TokenizerFacts) -> None:
    part = place.with_name(f".{place.name}.{uuid.uuid4().hex}.part")
    part.mkdir(parents=True)
    dtype = np.dtype(np.uint16 if tokenizer.size <= 1 << 16 else np.uint32)
    bad = BadLines(section.bad_line_limit)
    streams = {"train": 0, "holdout": 0}
    counts = {"train": 0, "holdout": 0}
    holdout_bytes = number = 0
    with (part / "train.bin").open("wb") as train, (part / "holdout.bin").open("wb") as holdout:
        files: dict[str, BinaryIO] = {"train": train, "holdout": holdout}
        for text, ids in _encoded(section, bad, encoder):
            number += 1
            # the second document of each k: a set of two documents can be held out from, too
            held_out = number % section.holdout_every == 2 % section.holdout_every
            name = "holdout" if held_out and streams["holdout"] < section.holdout_tokens else "train"
            document = tokenizer.document(ids)
            files[name].write(np.array(document, dtype=dtype).tobytes())
            streams[name] += len(document)
            counts[name] += 1
            if name == "holdout":
                holdout_bytes += len(text.encode())
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    if not counts["train"]:
        raise InputError(
            f"{', '.join(section.paths)}: no documents to train on ({sum(counts.values())} in all, "
            f"{bad.reasons.total()} broken lines); give a file with text in field {section.field!r}"
        )
    facts = StoreFacts(
        key=key,
        dtype="uint16" if dtype == np.uint16 else "uint32",
        documents=number,
        train_tokens=streams["train"],
        holdout_documents=counts["holdout"],
        holdout_tokens=streams["holdout"],
        holdout_bytes=holdout_bytes,
        bad_lines=dict(bad.reasons),
    )
    content = json.dumps(facts.model_dump(mode="json"), indent=1, sort_keys=True)
    (part / "meta.json").write_text(content + "\n", encoding="utf-8")
    os.rename(part, place)


def _encoded(section: TextSection, bad: BadLines, encoder: Tokenizer) -> Iterator[tuple[str, list[int]]]:
    """Documents of all files with their tokens, encoded many at a time (the library uses all cores)."""
    waiting: list[str] = []
    size = number = 0
    for path in section.paths:
        for text in documents(Path(path), section.field, bad):
            number += 1
            waiting.append(shuffled_words(text, number) if section.shuffle_words else text)
            size += len(text)
            if size >= _BATCH_CHARACTERS:
                yield from _encode(waiting, encoder)
                waiting, size = [], 0
    yield from _encode(waiting, encoder)


def _encode(texts: list[str], encoder: Tokenizer) -> Iterator[tuple[str, list[int]]]:
    for text, encoding in zip(texts, encoder.encode_batch(texts, add_special_tokens=False), strict=True):
        yield text, encoding.ids
