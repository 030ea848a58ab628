"""Mixture of experts: chosen experts heard more or less, by the tokens that are routed to them.

Routing stays as it is, and so do the weights. Other experts' tokens are not touched, so the edit follows the tokens
wherever the router sends them.
"""

from __future__ import annotations

from ...models import Edit, Scale
from . import Target, operator
from .factors import factors


@operator(
    "scale_expert",
    sites=("mixer.expert_gain", "mlp.expert_gain"),
    units=("factor", "share"),
    tensors={"gains?": "n"},
    acts_on="experts",
)
def scale_expert(target: Target) -> list[Edit]:
    """Multiply what the chosen experts say to the tokens routed to them; at 0 they are silent."""
    return [Scale(target.site, factors(target), channels=target.channels)]
