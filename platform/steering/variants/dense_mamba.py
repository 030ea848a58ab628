"""DenseMamba: Delta has one step size for every recurrent channel, whose state the next layers read as well."""

from __future__ import annotations

from . import Variant, variant


@variant("dense_mamba")
def dense_mamba() -> Variant:
    """The middle of the network, and the depth at which the published bottleneck was reported (83 %)."""
    return Variant(
        name="dense_mamba",
        arch="dense_mamba",
        default_model="tiny-dense-mamba",
        strengths={"scale_mixer_out": (0.5, 2.0, 5.0), "scale_delta": (0.5, 1.5, 2.0)},
        depths=(0.5, 0.8334),
        channel_share=0.125,
    )
