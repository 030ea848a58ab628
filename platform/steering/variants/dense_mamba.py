"""DenseMamba: Mamba whose layers also read the states of the layers below, through a gate for each channel and layer.

That gate is what it has and Mamba has not: closed, the model is a Mamba; so how much is read across layers is a place
to steer beside Mamba's own. The first block has nothing below it and no such gate.
"""

from __future__ import annotations

from dataclasses import replace

from . import Variant, default_variant, variant
from .mamba import PLACES


@variant("dense_mamba")
def dense_mamba() -> Variant:
    """Mamba's places, and the gates on the states of the layers below."""
    return replace(default_variant("dense_mamba"), places=(*PLACES, ("scale_dense_gate", "mixer.dense_gate")))
