"""What each channel of a site is worth to a model's answers: every channel set to zero, one after the other.

The measure behind the published recipe (`source_recipe`). It is no estimate by gradients: C channels cost C + 1 passes
over the questions, so a few dozen questions are enough for a sketch and their number is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.errors import InputError
from ..models import Edit, Scale
from .answered import Batch, score_all
from .recipe import site_width

if TYPE_CHECKING:
    from ..models import LanguageModel


def ablation_costs(model: LanguageModel, site: str, asked: Sequence[Batch], edits: Sequence[Edit] = ()) -> Tensor:
    """Relative rise (C,) of the loss when a channel of `site` is zero, on the CPU in float64: 0.02 is two per cent.

    site: its full name. asked: questions with their gold answers; the loss is minus the mean log-probability of a whole
    answer. edits: in force throughout, before the ablation. Raises InputError for a site that the model does not have,
    where scores are not finite, and where the loss is 0, of which nothing is a share.
    """
    width = site_width(model, site)
    if width is None:
        raise InputError(f"{model.name} has no site {site} with channels to ablate")
    unedited = _loss(model, site, asked, edits)
    if unedited <= 0.0:
        raise InputError(f"{model.name} gives every answer with certainty, so no ablation has a relative cost")
    losses = [_loss(model, site, asked, [*edits, Scale(site, 0.0, channels=[channel])]) for channel in range(width)]
    return torch.tensor(losses, dtype=torch.float64) / unedited - 1.0


def _loss(model: LanguageModel, site: str, asked: Sequence[Batch], edits: Sequence[Edit]) -> float:
    answers = score_all(model, asked, edits)
    if not bool(answers.finite.all()):
        raise InputError(f"the scores of {model.name} are not finite on some question while {site} is looked into")
    return -float(answers.logprob.mean())
