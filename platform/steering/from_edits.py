"""Edits as a recipe, so that whatever can be done to a model is judged like what a search has found.

A factor on channels becomes `scale_channels`, whose controls can take other channels, and an added vector `add_vector`,
whose controls can take another direction. Everything else is a `stored_edit`. The recipe does exactly what the edits
do, in their order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..core.errors import InputError, UsageError
from ..models import Add, Edit, Scale, load_edits
from ..models.access.sites import Selection, expand
from .part import Part
from .recipe import Recipe

if TYPE_CHECKING:
    from ..models import LanguageModel

_OF_ALL_EDITS = {"site", "channels", "positions", "phase", "where", "beyond"}


def recipe_of(edits: Sequence[Edit], model: LanguageModel, *, name: str = "edits") -> Recipe:
    """The recipe for `model` that does what `edits` do.

    Raises UsageError for an edit that fits no site, or whose tensor has entries for the rows of one batch.
    """
    parts = tuple(part for edit in edits for part in _parts(edit, model))
    recipe = Recipe(parts, model.digest, name)
    try:
        recipe.check(model)
    except InputError as error:
        raise UsageError(str(error)) from error
    return recipe


def load_recipe_of_edits(folder: str | Path, model: LanguageModel) -> Recipe:
    """The recipe of what `save_edits` wrote into `folder`. Raises InputError naming it."""
    edits = load_edits(folder)
    try:
        return recipe_of(edits, model, name=Path(folder).name)
    except UsageError as error:
        raise InputError(f"{folder}: {error}") from error


def _parts(edit: Edit, model: LanguageModel) -> list[Part]:
    if edit.of_rows or edit.where is not None:
        raise UsageError(f"{edit} is for the rows of one batch; an edit that is judged says its positions for any text")
    selection = edit.selection
    found: list[Part] = []
    for site in expand(Selection(selection.name), model.sites()):
        block, _, rest = site.name.removeprefix("blocks.").partition(".")
        inside = site.name.startswith("blocks.")
        width = int(site.channels) if isinstance(site.channels, int) else None
        channels = None if selection.channels is None else tuple(c % width if width else c for c in selection.channels)
        at = rest if inside else site.name, (int(block),) if inside else ()
        found.append(_part(edit, *at, channels, selection.positions, flat=len(site.axes) == 1))
    return found


def _part(
    edit: Edit, site: str, layers: tuple[int, ...], channels: tuple[int, ...] | None,
    positions: tuple[int, ...] | None, *, flat: bool,
) -> Part:  # fmt: skip
    """flat: whether the site has channels and nothing behind them, so that one axis of a tensor is theirs."""
    where = "all" if positions is None else positions
    if type(edit) is Scale and isinstance(edit.factor, Tensor) and channels is not None:
        factor = edit.factor
        if factor.numel() == 1:
            return Part(
                "scale_channels", site, layers, float(factor), "factor", channels, positions=where, phase=edit.phase
            )
        if flat and tuple(factor.shape) == (len(channels),):
            gains = {"gains": factor.detach()}
            return Part(
                "scale_channels", site, layers, 1.0, "share", channels, gains, positions=where, phase=edit.phase
            )
    if type(edit) is Add and isinstance(edit.value, Tensor) and channels is None and flat and edit.value.ndim == 1:
        from .operators import operator_names

        if "add_vector" in operator_names() and edit.value.numel() > 1:
            vector = {"vector": edit.value.detach()}
            return Part("add_vector", site, layers, 1.0, "value", None, vector, positions=where, phase=edit.phase)
    tensors: dict[str, Tensor] = {}
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(edit):
        value = getattr(edit, field.name)
        if field.name in _OF_ALL_EDITS or value is None:
            continue
        if isinstance(value, Tensor):
            tensors[field.name] = value.detach()
        else:
            fields[field.name] = value
    options = {"kind": edit.kind, "fields": fields}
    return Part("stored_edit", site, layers, 1.0, "share", channels, tensors, options, where, edit.phase)
