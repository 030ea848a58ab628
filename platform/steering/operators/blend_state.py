"""A state moved towards that of another prompt: what that prompt said, without its words.

After the task vectors of in-context learning (Hendel et al., arXiv 2310.15916), for recurrent states.

`mplat.steering.states_of` reads other prompts and gives the parts. At strength 1 the layer remembers what it would
have remembered of the other prompt and nothing of this one.
"""

from __future__ import annotations

from ...models import Edit, Interpolate
from . import Target, operator
from .state_sites import STATES, WINDOWS


@operator("blend_state", sites=(*STATES, *WINDOWS), units=("share",), tensors={"state": "n ..."})
def blend_state(target: Target) -> list[Edit]:
    """Move the state h of a recurrence, or a convolution's window, to h + strength (s - h) for a given state s."""
    return [Interpolate(target.site, target.tensors["state"], target.strength, channels=target.channels)]
