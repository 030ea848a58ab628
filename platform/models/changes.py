"""A model with a change behind its name: `tiny-mamba:recipe.json` is tiny-mamba with that recipe always in force.

Such a model is one like any other: it is loaded by its name, here and by workers elsewhere, and the change is part of
its digest. What may stand behind the colon, and what it does to a model, is said by a function that registers itself;
it stands in a layer above, where recipes are known:

    @model_change("recipe")
    def recipe_in_force(model: LanguageModel, path: Path) -> Change: ...

A folder or file that is called so itself comes first, so that a colon in the name of a folder means nothing else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..core.errors import UsageError
from ..core.registry import Registry

if TYPE_CHECKING:
    from .access.edits import Edit
    from .model import LanguageModel


@dataclass(frozen=True)
class Change:
    """Edits that are part of a model. key: names everything they do; modules: whose code decides what that is."""

    edits: tuple[Edit, ...]
    key: str
    modules: tuple[str, ...] = ()


class Named(NamedTuple):
    """base: the name of the model that is changed; it may have a change behind it too. path: of the change."""

    base: str
    path: Path

    def __str__(self) -> str:
        return f"{self.base}:{self.path}"


MakeChange = Callable[["LanguageModel", Path], Change]
CHANGES: Registry[MakeChange] = Registry("change of a model", "model_change", __name__, "..")
model_change = CHANGES.itself
_KIND, _SUFFIX = "recipe", ".json"


def parted(name: str | os.PathLike[str]) -> Named | None:
    """What the name of a changed model consists of; None for a name of another form, and where a file or folder has it.

    The first colon counts behind which something stands that exists. Where nothing does, a name that ends in `.json`
    still is one of a changed model, whose recipe is missing.
    """
    text = os.fsdecode(name)
    if ":" not in text or Path(text).expanduser().exists():
        return None
    parts = text.split(":")
    splits = [(":".join(parts[:at]), ":".join(parts[at:])) for at in range(1, len(parts))]
    for base, file in splits:
        if base and file and (path := Path(file).expanduser()).exists():
            return Named(base, path)
    base, file = splits[-1]
    return Named(base, Path(file).expanduser()) if base and file.endswith(_SUFFIX) else None


def base_of(name: str) -> str:
    """The name without what stands behind its colons: that of the model as it is."""
    changed = parted(name)
    return name if changed is None else base_of(changed.base)


def put_in_force(model: LanguageModel, path: Path) -> None:
    """Change `model` by what lies at `path`, once and for all; nothing where that leaves every bit as it is.

    Raises InputError for what cannot be read, is for another model, or is no change of a model as a whole.
    """
    change = CHANGES.get(_KIND)(model, path)
    if change.edits:
        model.keep(change)


def digest_with(digest: str, changes: tuple[Change, ...]) -> str:
    """The digest of a model whose weights and tokenizer have `digest`, with these changes."""
    for change in changes:
        digest = hashlib.sha256(f"{digest} {change.key}".encode()).hexdigest()
    return digest


def refuse_changed(model: LanguageModel, what: str) -> None:
    """UsageError where `model` has a change in force, which `what` would lose without a word."""
    if model.changes:
        raise UsageError(f"{what} would lose what stands behind the colon in {model.name!r}: name the model without it")
