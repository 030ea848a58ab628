"""Transformers, for comparison: attention has no step size, so what it adds to the residual stream is scaled."""

from __future__ import annotations

from . import Variant, variant


@variant("transformer")
def transformer() -> Variant:
    """The depths and strengths of the state-space models, so that one search is not larger than the other."""
    return Variant(
        name="transformer",
        arch="transformer",
        default_model="openai-community/gpt2",
        strengths={"scale_mixer_out": (0.5, 2.0, 5.0)},
        depths=(0.5, 0.8334),
        channel_share=0.125,
    )
