"""A model whose recurrences carry nothing from token to token, so that only its convolutions are left: the control of
whatever is said about memory.

The decays are edited and nothing else: exp(Delta A) is 0 with A far below 0, and so is a modal filter's lambda. The
state at a token is then what that token wrote, y_t = C_t . (w_t B_t x_t) + D x_t. A depthwise convolution of k taps
sees k - 1 tokens back, so the L blocks of Mamba with k = 4 see 1 + 3 L tokens: itself and 3 L before it.

What a model has beside recurrences and convolutions (attention, implicit filters, running means) is not cut; where it
has such, the control reaches farther than the convolutions can, and shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...models.access.edits import Edit, Replace, Scale
from .recurrences import recurrences_of

if TYPE_CHECKING:
    from ...models import LanguageModel

_A = -1e20  # times any Delta that is not 0 far below the logarithm of the smallest number; finite, so that 0 A is 0


def cut_recurrences(model: LanguageModel) -> list[Edit] | None:
    """The edits that cut every recurrence of the model; None where it has none, or one that shows no site to cut it by.

    Raises UsageError where an edit of decay rates is in force.
    """
    sites = {site.name for site in model.sites() if site.editable}
    edits: list[Edit] = []
    for layer in range(model.n_layers):
        for place in recurrences_of(model, layer):
            if (name := place.prefix + "A") in sites:
                edits.append(Replace(name, _A))
            elif (name := place.prefix + "poles") in sites:
                edits.append(Replace(name, 0.0))
            elif (name := place.prefix + "h_post") in sites:  # the same, a token at a time
                edits.append(Scale(name, 0.0))
            else:
                return None
    return edits or None


def conv_reach(model: LanguageModel) -> list[int]:
    """For each block, how many tokens back its convolutions see: those that stand side by side count once."""
    reach = [0] * model.n_layers
    for site in model.sites():
        if site.name.endswith(".conv_init"):
            layer, taps_before = int(site.name.split(".")[1]), int(site.axes[-1])
            reach[layer] = max(reach[layer], taps_before)
    return reach


def reach_above(reach: Sequence[int], layer: int) -> int:
    """Tokens back that the convolutions of block `layer` and of those above it see together."""
    return sum(reach[layer:])
