"""The values of sites at every token of each text of a batch, in passes whose captures fit into a given memory.

States at all tokens are large, so that not every layer of every text can be held at once: sites that are wanted
together are captured together, as many of these sets in one pass as fit, and a set that does not fit for a few texts at
a time. What is seen depends on none of it but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..engine.batches import Batch

if TYPE_CHECKING:
    from ...models import LanguageModel

#: bytes of what the captures of one pass hold
BYTES = 1 << 28


@torch.no_grad()
def along_texts(
    model: LanguageModel, batch: Batch, wanted: Sequence[Sequence[str]], ids: Sequence[str] | None = None
) -> Iterator[tuple[int, Any, dict[str, Tensor]]]:
    """For each text and each set of sites (full names) in `wanted`: the number of the set, the item, and the values
    (T, ...) of its sites, in the model's dtype. ids: of the items that are looked at; None: all."""
    items = [item for item in batch.items if ids is None or item.id in ids]
    if not items:
        return
    tokens, mask = Batch(items, batch.device).prompts()
    width = {site.name: 4 * prod(int(axis) for axis in site.axes) for site in model.sites() if not site.constant}
    sizes = [tokens.shape[1] * sum(width[name] for name in names) for names in wanted]
    for numbers in _fitting(sizes, len(items)):
        sites = list(dict.fromkeys(name for number in numbers for name in wanted[number]))
        at_once = max(1, BYTES // max(1, sum(sizes[number] for number in numbers)))
        for start in range(0, len(items), at_once):
            rows = slice(start, start + at_once)
            with model.capture(*sites) as seen:
                model(tokens[rows], mask[rows], last_only=True)
            for number in numbers:
                for row, item in enumerate(items[rows]):
                    yield number, item, {name: seen[name][row, : len(item.prompt)] for name in wanted[number]}


def finite(values: Mapping[str, Tensor]) -> bool:
    """Whether all values are."""
    return all(bool(torch.isfinite(value).all()) for value in values.values())


def _fitting(sizes: Sequence[int], texts: int) -> list[list[int]]:
    """Consecutive sets in groups that fit for all texts together, or alone."""
    groups: list[list[int]] = []
    held = 0
    for number, size in enumerate(sizes):
        if not groups or held + size * texts > BYTES:
            groups.append([])
            held = 0
        groups[-1].append(number)
        held += size * texts
    return groups
