"""Hyena: no step size and no recurrent state to steer, so what the blocks add to the residual stream is scaled."""

from __future__ import annotations

from . import Variant, variant


@variant("hyena")
def hyena() -> Variant:
    """The middle of the network, and the depth at which the published bottleneck of Mamba was reported (83 %)."""
    return Variant(
        name="hyena",
        arch="hyena",
        default_model="tiny-hyena",
        strengths={"scale_mixer_out": (0.5, 1.5, 2.0, 5.0)},
        depths=(0.5, 0.8334),
        channel_share=0.125,
    )
