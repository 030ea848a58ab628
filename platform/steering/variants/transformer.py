"""Transformers, for comparison: attention has no step size and no state of fixed size.

What can be steered there is what heads read (`z`), the hidden units of the feed-forward part, and what both add to the
residual stream.
"""

from __future__ import annotations

from dataclasses import replace

from . import Variant, variant
from .general import general


@variant("transformer")
def transformer() -> Variant:
    """What heads read, what the hidden units say, and what both parts of a block add."""
    places = (
        ("scale_channels", "mixer_out"),
        ("scale_channels", "mixer.z"),
        ("scale_channels", "mlp.hidden"),
        ("scale_channels", "mlp_out"),
    )
    return replace(
        general(), name="transformer", arch="transformer", default_model="openai-community/gpt2", places=places
    )
