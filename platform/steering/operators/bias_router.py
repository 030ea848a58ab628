"""Mixture of experts: tokens sent to some experts more or less often."""

from __future__ import annotations

from ...models import Add, Edit
from . import Target, operator


@operator("bias_router", sites=("mixer.router_logits", "mlp.router_logits"), units=("value",), acts_on="experts")
def bias_router(target: Target) -> list[Edit]:
    """Add the strength to the router's scores of the chosen experts, before they compete for the token.

    The weights follow, since a router weighs what an expert says by the same scores. The same number for all experts
    changes nothing where a softmax makes them probabilities.
    """
    return [Add(target.site, target.strength, channels=target.channels)]
