"""The model that a command was told to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.errors import UsageError

if TYPE_CHECKING:
    from ...models import LanguageModel


def named(model: str | None) -> str:
    """The name that was given. Raises UsageError where none was."""
    if model is None:
        raise UsageError("no model is named; give --model M (`mplat models` lists those that ship)")
    return model


def opened(model: str | None, tokenizer: str | None, device: str) -> LanguageModel:
    """The model of that name on `device`, with its own tokenizer or the one named. Raises UsageError where none is
    named."""
    from ...models import load

    return load(named(model), device, tokenizer=tokenizer)
