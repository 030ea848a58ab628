"""Edits that take parts of a circuit away, or all but them.

    ablated(model, parts)     zero in these parts
    isolated(model, parts)    zero everywhere else: at each site that any of the parts is at, in every block that has it

with model.edit(*ablated(model, truth.of("state"))): ...
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..access.edits import Edit, Scale
from .truth import Part

if TYPE_CHECKING:
    from ..model import LanguageModel


def ablated(model: LanguageModel, parts: Iterable[Part], factor: float = 0.0) -> tuple[Edit, ...]:
    """Edits that multiply these parts, and nothing else, by `factor`."""
    masks = _masks(model, parts)
    return tuple(Scale(site, torch.where(mask, factor, 1.0)) for site, mask in masks.items())


def isolated(model: LanguageModel, parts: Iterable[Part], factor: float = 0.0) -> tuple[Edit, ...]:
    """Edits that multiply everything but these parts by `factor`, at the sites that parts are at, logits left out."""
    masks = _masks(model, parts)
    inside = {site.split(".", 2)[-1] for site in masks if site != "logits"}
    edits: list[Edit] = []
    for site in model.sites():
        if site.name.split(".", 2)[-1] in inside and not site.constant:
            mask = masks.get(site.name)
            kept = torch.zeros(_axes(model, site.name), dtype=torch.bool) if mask is None else mask
            edits.append(Scale(site.name, torch.where(kept, 1.0, factor)))
    return tuple(edits)


def _masks(model: LanguageModel, parts: Iterable[Part]) -> dict[str, Tensor]:
    """Site -> which of its channels, or (channel, coordinate)s, are in one of the parts."""
    found: dict[str, Tensor] = {}
    for part in parts:
        mask = found.setdefault(part.full_site, torch.zeros(_axes(model, part.full_site), dtype=torch.bool))
        channels = torch.tensor(part.channels)
        if part.coordinates:
            mask[channels[:, None], torch.tensor(part.coordinates)] = True
        else:
            mask[channels] = True
    return found


def _axes(model: LanguageModel, name: str) -> tuple[int, ...]:
    (site,) = (s for s in model.sites() if s.name == name)
    return tuple(int(axis) for axis in site.axes)
