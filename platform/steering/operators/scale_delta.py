"""Faster or slower recurrent channels."""

from __future__ import annotations

from collections.abc import Sequence

from ...models import Edit, Scale
from . import operator


@operator("scale_delta", site="mixer.delta", strengths=(0.5, 1.5, 2.0))
def scale_delta(site: str, channels: Sequence[int], strength: float) -> list[Edit]:
    """Multiply the step sizes of recurrent channels: above 1 they write more and forget faster."""
    return [Scale(site, strength, channels=channels)]
