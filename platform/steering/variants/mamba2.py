"""Mamba-2: a head of channels forgets as one, so step sizes and decay rates (`A`) are few, and each moves a whole head.

The read-out `y` goes through a norm with its gate: a factor on all channels of a group cancels there, and only what
differs between channels is felt. That is why channels of `y` are steered and the gate is not a place of its own.
What the short convolution reads (`x_in`) is the memory of the last few tokens, channel by channel. B and C are shared
by the heads of a group, coordinate by coordinate.
"""

from __future__ import annotations

from dataclasses import replace

from . import Variant, default_variant, variant


@variant("mamba2")
def mamba2() -> Variant:
    """Heads by their step size, channels by their read-out, coordinates of B and C, beside what blocks add."""
    return replace(
        default_variant("mamba2"),
        places=(
            ("scale_channels", "mixer_out"),
            ("scale_channels", "mixer.x_in"),
            ("scale_channels", "mixer.y"),
            ("scale_delta", "mixer.delta"),
            ("scale_time_constants", "mixer.A"),
            ("scale_channels", "mixer.B"),
            ("scale_channels", "mixer.C"),
        ),
    )
