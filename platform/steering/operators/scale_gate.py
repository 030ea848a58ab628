"""Gates opened or closed.

What a gate is depends on the architecture. Mamba and its relatives multiply the scan's output by silu(z), and the site
is z itself: a factor makes an open gate wider and a closed one tighter, 0 closes it. Hyena and StripedHyena multiply by
the site as it is, before the long convolution (x1) and behind it (x0, or x2), so the factor is the branch's. In
Stable-Mamba the site is the mixed output of the gates, which is all that the recurrence gets to see.
"""

from __future__ import annotations

from ...models import Edit, Scale
from . import Target, operator
from .factors import factors


@operator(
    "scale_gate",
    sites=("mixer.gate", "mixer.x[0-9]", "mixer.stable.gate"),
    units=("factor", "share"),
    tensors={"gains?": "n"},
)
def scale_gate(target: Target) -> list[Edit]:
    """Multiply channels of a mixer's gate by the strength; in Mamba before its silu, so that 0 closes the gate."""
    return [Scale(target.site, factors(target), channels=target.channels)]
