"""How many tokens a context has and how many lie behind a place in it, for a tokenizer that is named.

A context is tokenised as the plain template renders it: with a space before it and without special tokens, so the count
is what such a prompt spends on it. Reads tokenizer.json alone; neither torch nor transformers is needed.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...core.errors import InputError
from ..tokens.tokenizer import TINY

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SHIPPED = Path(__file__).resolve().parents[2] / "models" / "tiny"


class Tokens(NamedTuple):
    """The tokens of a text: at which of its characters each begins, in order."""

    starts: Sequence[int]

    def behind(self, character: int) -> int:
        """How many tokens begin at `character` or later."""
        return len(self.starts) - bisect_left(self.starts, character)


class TokenCounter:
    """Counts with one tokenizer. name: as it was asked for; digest: sha256 of its tokenizer.json."""

    def __init__(self, name: str, digest: str, tokenizer: Tokenizer) -> None:
        self.name, self.digest, self._tokenizer = name, digest, tokenizer

    def tokens(self, context: str) -> Tokens:
        """Of the rendered context; characters are those of `context` itself."""
        text = context.strip()
        if not text:
            return Tokens(())
        lead = context.index(text[0]) - 1  # the space stands for what was stripped
        offsets = self._tokenizer.encode(f" {text}", add_special_tokens=False).offsets
        return Tokens([max(start + lead, 0) for start, _ in offsets])


def open_counter(name: str = TINY, *, digest: str | None = None) -> TokenCounter:
    """The tokenizer `name`: "tiny" or a shipped model, a folder or file with a tokenizer.json, or a model on the hub.

    Raises InputError where there is none, or where it is another than the one of `digest`.
    """
    from tokenizers import Tokenizer

    path = _path(name)
    try:
        data = path.read_bytes()
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except OSError as error:
        raise InputError(
            f"tokenizer {name}: {path} cannot be read ({error.strerror}); give {TINY!r}, a folder with a "
            "tokenizer.json, or the name of a model on the hub"
        ) from error
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise InputError(f"tokenizer {name}: {path} is not a tokenizer ({error}); save it again") from error
    found = hashlib.sha256(data).hexdigest()
    if digest not in (None, found):
        raise InputError(f"tokenizer {name}: {path} is not the file that this run began with; start it over")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return TokenCounter(name, found, tokenizer)


def files_of(name: str) -> tuple[str, dict[str, list[str]]]:
    """The name by which a worker, perhaps with another working folder, opens the tokenizer, and the files it reads."""
    if _is_shipped(name) or not Path(name).exists():
        return name, {}
    full = str(Path(name).absolute())
    return full, {full: [str(_path(full))]}


def _is_shipped(name: str) -> bool:
    return name == TINY or (name.startswith("tiny-") and (_SHIPPED / name).is_dir())


def _path(name: str) -> Path:
    if _is_shipped(name):
        return _SHIPPED / "tokenizer" / "tokenizer.json"
    here = Path(name)
    if here.is_file():
        return here
    if here.is_dir() or name.count("/") > 1 or name.startswith((".", "/", "~")):
        return here / "tokenizer.json"
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "tokenizer.json"))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(
            f"tokenizer {name}: neither a folder here nor a tokenizer.json on the hub or in its cache ({reason}); "
            f"give {TINY!r} or a folder"
        ) from error
