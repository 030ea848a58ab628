"""Hyena: no step size and no recurrent state to steer; memory is the filter's, lag by lag, and the gates'.

The filter is the same for all tokens, so what can be changed about memory is how loud a lag is for a channel. What is
chosen by the token are the two gates: x1 what enters the long convolution, x0 what of its output passes. That output
is a place too: a channel of it is the channel's whole memory.
"""

from __future__ import annotations

from ..source_recipe import source_recipe
from . import Variant, variant


@variant("hyena")
def hyena() -> Variant:
    """Filters, gates, and what blocks add."""
    places = (
        ("scale_channels", "mixer_out"),
        ("scale_channels", "mixer.long_conv_out"),
        ("scale_filter", "mixer.filter"),
        ("scale_gate", "mixer.x0"),
        ("scale_gate", "mixer.x1"),
    )
    return Variant("hyena", "hyena", "tiny-hyena", places, source=source_recipe)
