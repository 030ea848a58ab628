"""Features of a sparse dictionary held at given values, with what the dictionary does not reconstruct left in place.

How far they are moved there is the strength, a share, because that is what has a value at which nothing changes: 0 for
a feature's value would switch it off.
"""

from __future__ import annotations

from ...models import Add, Edit, Features
from . import Target, operator
from .dictionary import DICTIONARY, latents


@operator("clamp_feature", sites=("*",), units=("share",), tensors={**DICTIONARY, "values": "k"})
def clamp_feature(target: Target) -> list[Edit]:
    """Move features f of a sparse dictionary to the values v by a share, x + strength (v - f) D; 1 sets them.

    As two edits, (1 - strength) f and then strength v, because v is a constant and f is read from the unedited x.
    """
    values = target.strength * target.tensors["values"] @ target.tensors["decoder"].flatten(1)
    constant = values.reshape(target.tensors["decoder"].shape[1:])
    return [
        Features(target.site, **latents(target), factor=1.0 - target.strength, channels=target.channels),
        Add(target.site, constant, channels=target.channels),
    ]
