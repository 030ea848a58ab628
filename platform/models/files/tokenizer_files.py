"""A model's tokenizer: from its own folder, from another one that is named, or the one its authors used.

Only `tokenizer.json` is read, and the settings beside it; code from a folder is never run. Some published models come
without: those of state-spaces, and others of the same kind, were trained with that of GPT-NeoX-20B.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.collecting import uncollected
from ...core.errors import InputError, UsageError
from . import catalog
from . import model_hub as hub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FILES = ("tokenizer_config.json", "special_tokens_map.json")  # settings that may stand beside tokenizer.json
_MAIN = "tokenizer.json"


def of_model(
    name: str, folder: Path, chosen: str | os.PathLike[str] | None, vocab_size: int
) -> PreTrainedTokenizerFast | None:
    """The tokenizer of the model `name` in `folder`: `chosen` where one is named, else the folder's own, else the one
    that a model of the hub was trained with; None where there is none of these.

    chosen: a folder, a tokenizer.json, a shipped model or a hub id. Raises InputError where it is none of these, is
    malformed, or has more tokens than the model has embeddings.
    """
    if chosen is not None:
        return read(_named(chosen), vocab_size)
    if (folder / _MAIN).exists():
        return read(folder / _MAIN, vocab_size)
    if not (hub.is_id(name) and folder == hub.snapshot(name)):
        return None
    other = catalog.tokenizer_of(name) or name
    path = _fetched(other)
    return None if path is None else read(path, vocab_size)


def read(path: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """The fast tokenizer that `path`, a tokenizer.json, and the settings beside it describe. Raises InputError for a
    file that is none, or whose tokens for a text may be `vocab_size` or higher; entries that only fill a vocabulary up
    do no harm."""
    with uncollected():
        from transformers import PreTrainedTokenizerFast

    try:
        if path.name == _MAIN:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path.parent), local_files_only=True)
        else:
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
        with suppress(Exception):  # a vocabulary of words may have none for it; what is damaged panics
            tokenizer.encode("a")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the tokenizers library raises bare Exception for a malformed file, or Rust panics
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: is not a tokenizer ({reason}); copy it again") from error
    if len(tokenizer) > vocab_size and _highest(tokenizer) >= vocab_size:
        raise InputError(
            f"{path.parent}: the tokenizer has {len(tokenizer)} tokens but the embedding only {vocab_size} rows"
        )
    return tokenizer


def _highest(tokenizer: PreTrainedTokenizerFast) -> int:
    """The highest id that some text is encoded with. Of a vocabulary of byte pairs, entries that are neither a single
    character nor the result of a merge nor added are never reached: they fill it up to a round number."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    every = tokenizer.get_vocab()
    plain = model.get("type") == "BPE" and not (
        model.get("ignore_merges") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    )
    if not plain:
        return max(every.values())
    merged = {"".join(pair) if isinstance(pair, list) else pair.replace(" ", "", 1) for pair in model["merges"]}
    reached = {*merged, *tokenizer.get_added_vocab(), model.get("unk_token")}
    is_byte = re.compile(r"<0x[0-9A-F]{2}>").fullmatch  # what unknown characters fall back to
    return max(i for token, i in every.items() if len(token) == 1 or token in reached or is_byte(token))


def _named(chosen: str | os.PathLike[str]) -> Path:
    """The tokenizer.json of what a user named."""
    if not isinstance(chosen, (str, os.PathLike)):
        raise UsageError(f"a tokenizer is named by a folder or a hub id, not by {type(chosen).__name__}")
    text = os.fsdecode(chosen)
    shipped = catalog.shipped()
    path = shipped.get(text, Path(text).expanduser())
    if path.is_file():
        return path
    if (path / _MAIN).is_file():
        return path / _MAIN
    if path.is_dir():
        raise InputError(f"tokenizer {text}: the folder has no tokenizer.json, which is what is read")
    found = _fetched(catalog.tokenizer_of(text) or text) if hub.is_id(text) else None
    if found is None:
        raise InputError(
            f"no tokenizer {text!r}: no folder with a tokenizer.json, not in the local cache, and the hub gave none; "
            f"fetch it where there is a network with `hf download {text}`, or name a folder"
        )
    return found


def _fetched(repo: str) -> Path | None:
    """The tokenizer.json of a model on the hub, with the settings beside it; None where it has or gives none."""
    found = hub.fetch_file(repo, _MAIN)
    if found is not None:
        for beside in _FILES:
            hub.fetch_file(repo, beside)
    return found
