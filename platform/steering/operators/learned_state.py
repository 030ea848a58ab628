"""A state that a text begins with, learned by gradient descent: the model behaves as if it had read something before.

After S0 tuning (arXiv 2604.01168): weights stay frozen, nothing is added to a forward pass, and only the recurrent
state and the window of the convolution before the first token are another. `mplat.steering.learned` learns them.
"""

from __future__ import annotations

from ...models import Add, Edit
from . import Target, operator


@operator(
    "learned_state",
    sites=("mixer.h_init", "mixer.conv_init"),
    units=("share",),
    tensors={"state": "C ..."},
    acts_on="",
)
def learned_state(target: Target) -> list[Edit]:
    """Begin every text with a share of a learned state: 0 is nothing, 1 the state as it was learned."""
    return [Add(target.site, target.strength * target.tensors["state"])]
