"""Falcon Mamba: Mamba's places; its published model has seven billion parameters."""

from __future__ import annotations

from dataclasses import replace

from . import Variant, variant
from .general import general
from .mamba import PLACES


@variant("falcon_mamba")
def falcon_mamba() -> Variant:
    """What the blocks add to the residual stream; the default model has to be fetched from the hub once."""
    return replace(
        general(), name="falcon_mamba", arch="falcon_mamba", default_model="tiiuae/falcon-mamba-7b", places=PLACES
    )
