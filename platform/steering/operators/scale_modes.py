"""StripedHyena: residues of the long filter's modes, which say how loudly each is read.

The filter is h_t = Re sum_s r_s lambda_s^t: a factor on r_s scales this mode's part of it at every lag. How long a mode
lasts is its pole's, see `scale_time_constants`.
"""

from __future__ import annotations

import torch

from ...models import Edit, Scale
from . import Target, operator
from .modes import BAND, modes


@operator("scale_modes", sites=("mixer.residues",), options=BAND)
def scale_modes(target: Target) -> list[Edit]:
    """Multiply the residues of a modal filter's modes with half-lives of low to high tokens by the strength."""
    meant = modes(target).meant
    by_mode = torch.where(meant, target.strength, 1.0).double()
    return [Scale(target.site, by_mode[..., None], channels=target.channels)]
