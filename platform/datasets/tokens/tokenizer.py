"""The tokenizer that texts are read with: found, identified by a digest, and ready to encode.

Reads tokenizer.json directly (the `tokenizers` library, no transformers import, which costs seconds) and the name of
the end-of-text token from tokenizer_config.json. Of what a tokenizer adds to a text only what stands before it is used
(BOS), so that training reads texts as generation and evaluation do (`models.text`).
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...core.errors import InputError
from ...core.json_files import read_bounded, read_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TINY = "tiny"  # the name of the tokenizer of all shipped models
SHIPPED = Path(__file__).parents[2] / "models" / "tiny" / "tokenizer"
MAX_BYTES = 1 << 28  # of tokenizer.json; that of 256,000 tokens has some 2^25
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class TokenizerFacts(NamedTuple):
    """What a stream of tokens needs to know of one. begin: ids that it puts before a text itself, often none."""

    folder: Path
    size: int
    eos_id: int
    digest: str
    begin: tuple[int, ...] = ()

    @property
    def start_id(self) -> int:
        """The first token of every document in a stream of many."""
        return self.begin[0] if self.begin else self.eos_id

    def document(self, ids: list[int]) -> list[int]:
        """A text's ids as a document of a stream: its end before it, where the tokenizer has nothing to put there."""
        return [*self.begin, *ids, self.eos_id] if self.begin else [self.eos_id, *ids]


def open_tokenizer(folder: str | Path | None) -> tuple[Tokenizer, TokenizerFacts]:
    """The tokenizer in `folder`; "tiny", where no folder has this name, and None are the one of all shipped models.
    InputError names the file that is wrong."""
    from tokenizers import Tokenizer

    path = SHIPPED if folder is None else Path(folder)
    if path == Path(TINY) and not path.exists():
        path = SHIPPED
    advice = "a tokenizer is a folder with tokenizer.json and tokenizer_config.json, saved whole"
    content = read_bounded(path / "tokenizer.json", MAX_BYTES, advice=advice)
    config = read_object(path / "tokenizer_config.json", advice=advice)
    try:
        tokenizer = Tokenizer.from_buffer(content)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        begin = _begin(tokenizer)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception for a malformed file, or its Rust panics
        raise InputError(f"tokenizer {path}/tokenizer.json is not a tokenizer ({error}); save it again") from error
    eos = _token_text(config.get("eos_token"))
    eos_id = tokenizer.token_to_id(eos) if eos else None
    if eos_id is None:
        raise InputError(
            f"tokenizer {path}: no eos_token in tokenizer_config.json, or it is not in the vocabulary; "
            "documents cannot be separated without one"
        )
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return tokenizer, TokenizerFacts(path, size, eos_id, digest(path), begin)


def _begin(tokenizer: Tokenizer) -> tuple[int, ...]:
    encoded = tokenizer.encode("a")
    added = itertools.takewhile(lambda one: one[1], zip(encoded.ids, encoded.special_tokens_mask, strict=True))
    return tuple(token for token, _ in added)


def digest(folder: Path) -> str:
    """sha256 over the tokenizer's files that are there, names included."""
    total = hashlib.sha256()
    for name in FILES:
        path = folder / name
        if path.is_file():
            total.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _token_text(value: Any) -> str | None:
    """Special tokens are stored as text, or as an object with a `content`."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None
