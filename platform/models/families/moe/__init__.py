"""Mixtures of experts as pure functions of tensors: which experts a token goes to, with what weight, and what they say.

`routers` turns scores into experts and weights, `capacity` says which of them are served, `balance` gives the losses
that keep experts in use, `experts` evaluates each expert on its own tokens and no other. The block that puts them
together, with its sites, is `moe_mamba`.

Shapes: N tokens, E experts, k experts per token, d width, f inner width of an expert. `real` (N,) is False at padding,
which is never routed, counted or given capacity; None where there is none. NOWHERE marks a choice that is not served.
"""

from __future__ import annotations

from .balance import expert_load, load_balance_loss, router_z_loss
from .capacity import within_capacity
from .experts import ACTIVATIONS, NOWHERE, ask_experts, run_experts
from .routers import ROUTERS, choose, probabilities, weigh
from .sinkhorn import sinkhorn

__all__ = [
    "ACTIVATIONS", "NOWHERE", "ROUTERS", "ask_experts", "choose", "expert_load", "load_balance_loss", "probabilities",
    "router_z_loss", "run_experts", "sinkhorn", "weigh", "within_capacity",
]  # fmt: skip
