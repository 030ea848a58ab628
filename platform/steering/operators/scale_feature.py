"""Features of a sparse dictionary scaled, with what the dictionary does not reconstruct left in place."""

from __future__ import annotations

from ...models import Edit, Features
from . import Target, operator
from .dictionary import DICTIONARY, latents


@operator("scale_feature", sites=("*",), tensors=DICTIONARY)
def scale_feature(target: Target) -> list[Edit]:
    """Multiply features f of a sparse dictionary, x + (strength - 1) f D, and leave what it does not reconstruct."""
    return [Features(target.site, **latents(target), factor=target.strength, channels=target.channels)]
