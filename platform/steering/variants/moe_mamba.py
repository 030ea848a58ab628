"""MoE-Mamba: Mamba blocks recall, mixtures of experts transform one token at a time, in turn.

Each kind has places of its own, and a search by depth would meet only one of them: step sizes, gates and read-outs
exist in the Mamba blocks, the router's scores and what experts say in the others. Experts are few and chosen by the
token, so an expert is a unit of steering as a channel is.
"""

from __future__ import annotations

from dataclasses import replace

from . import Variant, default_variant, variant
from .mamba import PLACES


@variant("moe_mamba")
def moe_mamba() -> Variant:
    """Mamba's places in the Mamba blocks; experts heard more or less, and chosen more or less often, in the others."""
    experts = (("scale_expert", "mixer.expert_gain"), ("bias_router", "mixer.router_logits"))
    return replace(default_variant("moe_mamba"), places=(*PLACES, *experts))
