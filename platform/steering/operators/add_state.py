"""Something added to what a layer remembers, which every later token then reads.

At `mixer.h` the token itself reads it as well, at `mixer.h_post` only what comes after. At positions `all` it is added
anew at every token and piles up as far as the layer does not forget it; `last` adds it once. At `mixer.h_init` and
`mixer.conv_init` a text begins with it.
"""

from __future__ import annotations

from ...core.errors import UsageError
from ...models import Add, Edit
from . import Target, operator
from .state_sites import STATES, WINDOWS


@operator("add_state", sites=(*STATES, *WINDOWS), units=("value", "rms"), tensors={"vector": "n ..."})
def add_state(target: Target) -> list[Edit]:
    """Add the vector, of a state's shape, times the strength to the state; the change propagates exactly.

    In unit `rms` the vector first gets root mean square 1. Raises UsageError for a vector that is zero everywhere.
    """
    vector = target.tensors["vector"]
    size = float(vector.square().mean().sqrt())
    if size == 0.0:
        raise UsageError(f"operator add_state at {target.site}: the vector is zero everywhere")
    unit = vector / size if target.unit == "rms" else vector
    return [Add(target.site, target.strength * unit, channels=target.channels)]
