"""More or less of what a block writes."""

from __future__ import annotations

from collections.abc import Sequence

from ...models import Edit, Scale
from . import operator


@operator("scale_mixer_out", site="mixer_out", strengths=(0.5, 2.0, 5.0))
def scale_mixer_out(site: str, channels: Sequence[int], strength: float) -> list[Edit]:
    """Multiply channels of what a block adds to the residual stream."""
    return [Scale(site, strength, channels=channels)]
