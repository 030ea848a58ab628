"""Which tokens end a text: a set, from the files of a model's folder and from its tokenizer.

The files say what they say to transformers' `generate`: generation_config.json alone where there is one, whether it
names end tokens or not, else `eos_token_id` of config.json as it is written there (the defaults of a model type do not
count). Either may be one id or a list. The end-of-text token of the model's tokenizer ends texts too: what follows it
is another text, and files that leave it out, as those of models trained further on conversations often do, would let an
answer run on into it.

Not here: stop strings (`generation`), the token between the documents of a training set (`train`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError
from ...core.json_files import read_object

if TYPE_CHECKING:
    from ..model import LanguageModel

GENERATION_FILE = "generation_config.json"
TokenIds = int | tuple[int, ...] | None


def ids(value: TokenIds) -> tuple[int, ...]:
    """One id, several or none as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def generation_settings(folder: Path, config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What generation_config.json in `folder` holds; None where there is none and `config`, the content of config.json,
    decides. A config.json that names no end token is like a generation_config.json without one.

    Raises InputError for a file that is no JSON object, or whose `eos_token_id` is neither an id nor a list of ids.
    """
    path = folder / GENERATION_FILE
    if not path.exists():
        return None if config is None or "eos_token_id" in config else {}
    content = read_object(path, constants=True)
    value = content.get("eos_token_id")
    several = value if isinstance(value, list) else [] if value is None else [value]
    if value == [] or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in several):
        raise InputError(
            f"{path}: eos_token_id must be a token id or a list of them, not {value!r}; leave it out where no token "
            "ends a text"
        )
    return content


def of_files(model: LanguageModel) -> tuple[int, ...]:
    """The ids at which transformers' `generate` stops, in the order of the file."""
    if model.generation_settings is None:
        return ids(model.config.eos_token_id)
    value = model.generation_settings.get("eos_token_id")
    return tuple(value) if isinstance(value, list) else ids(value)


def of_tokenizer(model: LanguageModel) -> tuple[int, ...]:
    """The end-of-text token of the model's tokenizer, if there is one."""
    own: Any = None if model.tokenizer is None else model.tokenizer.eos_token_id
    return ids(own)


def of_model(model: LanguageModel) -> tuple[int, ...]:
    """All ids that end a text of `model`, ascending."""
    return tuple(sorted({*of_files(model), *of_tokenizer(model)}))


def record(model: LanguageModel) -> dict[str, Any]:
    """What the record of a run says of them: the ids, and for each source those that it named."""
    source = "config.json" if model.generation_settings is None else GENERATION_FILE
    return {"ids": list(of_model(model)), source: list(of_files(model)), "tokenizer": list(of_tokenizer(model))}
