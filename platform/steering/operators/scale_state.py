"""More or less of what a layer remembers.

A factor at every token is a decay of its own: at positions `all` a channel with factor f keeps f times what it would
have kept, token after token. At `last`, or where the evidence ends, it is a single louder or quieter state.
"""

from __future__ import annotations

from ...models import Edit, Scale
from . import Target, operator
from .factors import factors
from .state_sites import STATES, WINDOWS


@operator(
    "scale_state",
    sites=(*(s for s in (*STATES, *WINDOWS) if not s.endswith("_init")), "mixer.h_fused"),
    units=("factor", "share"),
    tensors={"gains?": "n"},
)
def scale_state(target: Target) -> list[Edit]:
    """Multiply the state of a recurrence, or a convolution's window; what later tokens read follows exactly."""
    return [Scale(target.site, factors(target), channels=target.channels)]
