"""Stable-Mamba: Delta is the negative logarithm of a head's decay, for fast, medium and slow heads alike."""

from __future__ import annotations

from . import Variant, variant


@variant("stable_mamba")
def stable_mamba() -> Variant:
    """The middle of the network, and the depth at which the published bottleneck was reported (83 %)."""
    return Variant(
        name="stable_mamba",
        arch="stable_mamba",
        default_model="tiny-stable-mamba",
        strengths={"scale_mixer_out": (0.5, 2.0, 5.0), "scale_delta": (0.5, 1.5, 2.0)},
        depths=(0.5, 0.8334),
        channel_share=0.125,
    )
