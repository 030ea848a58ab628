"""Mamba-2: Delta has one step size for every head, so that few channels are many recurrent states."""

from __future__ import annotations

from . import Variant, variant


@variant("mamba2")
def mamba2() -> Variant:
    """The middle of the network, and the depth at which the published bottleneck was reported (83 %)."""
    return Variant(
        name="mamba2",
        arch="mamba2",
        default_model="tiny-mamba2",
        strengths={"scale_mixer_out": (0.5, 2.0, 5.0), "scale_delta": (0.5, 1.5, 2.0)},
        depths=(0.5, 0.8334),
        channel_share=0.125,
    )
