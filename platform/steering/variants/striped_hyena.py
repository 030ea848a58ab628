"""StripedHyena: long convolutions and attention in turn, neither of which has a Delta."""

from __future__ import annotations

from . import Variant, variant


@variant("striped_hyena")
def striped_hyena() -> Variant:
    """The middle of the network, and the depth at which the published bottleneck was reported (83 %)."""
    return Variant(
        name="striped_hyena",
        arch="striped_hyena",
        default_model="tiny-striped-hyena",
        strengths={"scale_mixer_out": (0.5, 2.0, 5.0)},
        depths=(0.5, 0.8334),
        channel_share=0.125,
    )
