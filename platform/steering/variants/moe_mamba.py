"""MoE-Mamba: Mamba blocks and mixtures of experts in turn, of which only the former have a Delta."""

from __future__ import annotations

from . import Variant, variant


@variant("moe_mamba")
def moe_mamba() -> Variant:
    """The middle of the network, and the depth at which the published bottleneck was reported (83 %); what every kind
    of block adds to the residual stream, because the blocks at these depths may be of either kind."""
    return Variant(
        name="moe_mamba",
        arch="moe_mamba",
        default_model="tiny-moe-mamba",
        strengths={"scale_mixer_out": (0.5, 2.0, 5.0)},
        depths=(0.5, 0.8334),
        channel_share=0.125,
    )
