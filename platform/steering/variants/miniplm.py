"""MiniPLM: Mamba trained on a corpus refined by the difference of two models (Gu et al., arXiv 2410.17215)."""

from __future__ import annotations

from . import Variant, variant


@variant("miniplm")
def miniplm() -> Variant:
    """As for Mamba, whose architecture it is; the default model has to be fetched from the hub once."""
    return Variant(
        name="miniplm",
        arch="mamba",
        default_model="MiniLLM/MiniPLM-Mamba-130M",
        strengths={"scale_mixer_out": (0.5, 2.0, 5.0), "scale_delta": (0.5, 1.5, 2.0)},
        depths=(0.5, 0.8334),
        channel_share=0.125,
    )
