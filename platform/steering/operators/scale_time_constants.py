"""Longer or shorter memory of the recurrent channels whose half-life lies in a given range.

Which channels those are is measured on texts, because Delta depends on the token: `mplat.steering.time_constants`
measures and writes the channels into parts, one for each layer. The operator itself scales what it is given.

At `mixer.delta` the strength f divides Delta, so that the decay exp(Delta A) over a token becomes that of 1/f tokens
and the half-life ln 2 / (Delta |A|) is multiplied by f, exactly, for all coordinates of the channel (Mamba-2: of the
head). Delta sets the write as well: Delta B x becomes 1/f of what it was, and a Stable-Mamba state, which writes
1 - exp(-Delta), stays an average of what was written. What is read in between, such as the skip D x, does not move.

At `mixer.A` the decay rates are divided in the same way and the write stays what it was: only how long it lasts moves.

At `mixer.poles` (StripedHyena) the modulus of a pole becomes |lambda|^(1/f) and its angle stays: the mode's half-life
is multiplied by f. Residues, and so what the filter weighs the current token with, stay.
"""

from __future__ import annotations

import torch

from ...core.errors import UsageError
from ...models import Edit, Scale
from . import Target, operator
from .modes import BAND, modes


@operator(
    "scale_time_constants",
    sites=("mixer.delta", "mixer.stable.delta", "mixer.A", "mixer.stable.A", "mixer.poles"),
    units=("half_life",),
    options={name: f"{meaning} (poles)" for name, meaning in BAND.items()},
    low=0.01,
)
def scale_time_constants(target: Target) -> list[Edit]:
    """Multiply half-lives of recurrent channels by the strength: Delta or A over it, poles to the power 1 over it.

    Raises UsageError for a band of half-lives where Delta decides over them: which channels lie in it is measured.
    """
    if target.site.endswith(".poles"):
        rate, meant = modes(target)
        factor = torch.where(meant, torch.exp(rate * (1.0 - 1.0 / target.strength)), 1.0)
        return [Scale(target.site, factor[..., None], channels=target.channels)]
    if target.options:
        raise UsageError(
            f"operator scale_time_constants: half-lives at {target.site} depend on the text; measure them "
            "(mplat.steering.time_constants) and give the channels instead of a band"
        )
    return [Scale(target.site, 1.0 / target.strength, channels=target.channels)]
