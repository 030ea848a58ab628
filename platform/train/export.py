"""The trained model as a Hugging Face folder: config.json, model.safetensors, tokenizer files.

Written beside its place and renamed, so that a folder called `model` is always whole. The tokenizer's files are copied:
the exported model reads text exactly as the training did. Only a `model_max_length` that says there is no limit is set
to what this model sees, because other programs cut texts there. Where the best weights were chosen by questions, their
digests stand beside them (`datasets.asked_before`), so that no evaluation is judged by these.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..core.json_files import read_object
from ..datasets.prompting.asked_before import write_choice
from ..datasets.tokens.tokenizer import FILES

if TYPE_CHECKING:
    from ..datasets.records import Question
    from ..models import LanguageModel


# what a model without a limit says: others, such as evaluation harnesses, take this where nothing is said
WITHOUT_LIMIT = 2048
NO_LIMIT = 1_000_000  # tokens; from here on a number only means that there is none


def export(
    model: LanguageModel, dtype: str, tokenizer_folder: Path, folder: Path, *, chosen_by: Sequence[Question] = ()
) -> str:
    """Save `model` in `dtype` to `folder`, replacing an older export, and return the digest under which it loads.

    chosen_by: the questions that chose these weights among others."""
    from ..models import load

    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    model.save(part, dtype=getattr(torch, dtype))
    for name in FILES:
        if (tokenizer_folder / name).is_file():
            shutil.copyfile(tokenizer_folder / name, part / name)
    _say_length(part / "tokenizer_config.json", getattr(model.config.own, "max_length", WITHOUT_LIMIT))
    if chosen_by:
        write_choice(part, chosen_by)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return load(str(folder)).digest


def _say_length(path: Path, length: int) -> None:
    content = read_object(path)
    said = content.get("model_max_length", NO_LIMIT)
    if not isinstance(said, int | float) or said >= NO_LIMIT:
        content["model_max_length"] = length
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
