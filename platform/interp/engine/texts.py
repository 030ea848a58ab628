"""Plain texts as items: a line of a .txt file, or the `text` of a record of any other kind of file.

A text longer than `max_tokens` is read up to there: it has no end that something follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...core.errors import InputError
from ...datasets.sources.own_files import TEXT, check_kind, rows, whole_text
from ...models.decoding.text import encode_text
from .batches import Item
from .encoded import Encoded
from .step import Excluded

if TYPE_CHECKING:
    from ...models import LanguageModel

FORM = "texts are a .txt with one a line, or .jsonl, .json, .csv, .tsv or .parquet with a `text` in every record"


class PlainText(NamedTuple):
    """id: unique among the texts that are read together."""

    id: str
    text: str


def read_texts(path: Path) -> list[PlainText]:
    """The texts of a file in its order, empty ones left out. Raises InputError for one that is not as FORM says."""
    if check_kind(path, FORM) == TEXT:
        lines = enumerate(whole_text(path).split("\n"), 1)
        found = [PlainText(f"line {number}", line.removesuffix("\r")) for number, line in lines]
    else:
        found = []
        for entry in rows(path):
            text = entry.value.get("text") if isinstance(entry.value, Mapping) else None
            if not isinstance(text, str):
                raise InputError(f"{path}, {entry.where}: {entry.problem or 'no `text` here'}; {FORM}")
            found.append(PlainText(entry.where, text))
    found = [one for one in found if one.text.strip()]
    if not found:
        raise InputError(f"{path}: holds no text; {FORM}")
    return found


def encode_texts(
    model: LanguageModel, texts: Sequence[PlainText], *, max_tokens: int, length: int | None = None
) -> Encoded:
    """Token ids of `texts`. length: that each is cut to, in place of `max_tokens`; shorter ones are left out.

    Raises InputError where none can be used, and for a model without tokenizer.
    """
    if model.tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the texts; name one with --tokenizer")
    read = {
        one: encode_text(model.tokenizer, one.text).ids[: max_tokens if length is None else length] for one in texts
    }
    if len({one.id for one in read}) < len(texts):
        raise InputError("two texts have one id; ids must be unique")
    size = model.config.vocab_size
    unread = f"it has no token, or one outside of the model's vocabulary of {size}"
    excluded = [Excluded(one.id, "bad_input", unread) for one, ids in read.items() if not ids or max(ids) >= size]
    if length is not None:
        short = {one.id: len(ids) for one, ids in read.items() if len(ids) < length}
        reasons = {id_: f"{n} tokens, fewer than the length {length}" for id_, n in short.items()}
        excluded += [Excluded(id_, "too_short", reason) for id_, reason in reasons.items()]
    bad = {one.id for one in excluded}
    kept = [one for one in read if one.id not in bad]
    if not kept:
        reasons_given = "; ".join(dict.fromkeys(one.reason for one in excluded[:3]))
        raise InputError(f"none of the {len(texts)} texts can be used: {reasons_given}")
    return Encoded(
        tuple(Item(one.id, read[one], ()) for one in kept),
        tuple(excluded),
        texts=tuple(one.text for one in kept),
    )
