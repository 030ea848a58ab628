"""Which channels of a site to damage: those whose loss costs most, found on questions that no benchmark asks.

The score of a channel is the derivative of the answers' log-probability by a factor on it, summed over tokens and
averaged over questions: what carries the answer to first order. It needs no search and no second look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...core.errors import UsageError
from ...models.access.edits import Scale
from .forced import ForcedBatch, log_probabilities

if TYPE_CHECKING:
    from ...models import LanguageModel


def hurting_channels(
    model: LanguageModel, full_site: str, count: int, batches: Sequence[ForcedBatch]
) -> tuple[int, ...]:
    """The `count` channels of largest |gradient by their factor|, ascending. Raises UsageError where the model has no
    such site or not that many channels."""
    site = next((s for s in model.sites() if s.name == full_site), None)
    width = 0 if site is None else int(site.channels)
    behind = 0 if site is None else len(site.shape) - (1 if site.constant else 3)
    if not 0 < count <= width:
        raise UsageError(f"{model.name} has {width} channels at {full_site}, not {count} to plant a damage in")
    total = torch.zeros(width)
    for batch in batches:
        gain = torch.ones(width, dtype=model.dtype, requires_grad=True)
        with torch.enable_grad(), model.edit(Scale(full_site, gain.reshape(-1, *[1] * behind))):
            said = log_probabilities(model(batch.tokens, batch.mask), batch).sum()
        total += torch.autograd.grad(said, gain)[0]
    return tuple(sorted(total.abs().argsort(descending=True, stable=True)[:count].tolist()))
