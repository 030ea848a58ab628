"""Stable-Mamba: one of the gates of the ensemble that decides what enters a layer.

The site of gate k is sigmoid(W_k u + b_k) u, so the factor is on what this gate lets through; the ensemble's weights
stay as they are.
"""

from __future__ import annotations

from ...models import Edit, Scale
from . import Target, operator
from .factors import factors


@operator(
    "scale_stable_gate",
    sites=("mixer.gate_[0-9]", "mixer.stable.gate_[0-9]"),
    units=("factor", "share"),
    tensors={"gains?": "n"},
)
def scale_stable_gate(target: Target) -> list[Edit]:
    """Multiply what one gate of a Stable-Mamba layer lets through; each gate is a site."""
    return [Scale(target.site, factors(target), channels=target.channels)]
