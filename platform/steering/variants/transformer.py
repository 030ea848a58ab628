"""Transformers, for comparison: attention has no step size, so what it adds to the residual stream is scaled."""

from __future__ import annotations

from dataclasses import replace

from . import Variant, variant
from .general import general


@variant("transformer")
def transformer() -> Variant:
    """The depths and strengths of the state-space models, so that one search is not larger than the other."""
    return replace(general(), name="transformer", arch="transformer", default_model="openai-community/gpt2")
