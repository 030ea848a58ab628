"""Mamba: every channel has a memory of its own, B and C decide for all of them at once what enters and what is read.

So channels are steered where they are still apart: what the short convolution reads of them (`x_in`), the memory of the
last few tokens; their read-out (`y`); their step size, which sets how fast one forgets and how much it writes; their
decay rates (`A`), which set the first alone; and the gate that lets the read-out pass. The coordinates of B and C are
the other axis of the same state. What a block adds (`mixer_out`) is a mixture of all channels, and the place of the
published recipe.
"""

from __future__ import annotations

from dataclasses import replace

from . import Variant, default_variant, variant

PLACES = (
    ("scale_channels", "mixer_out"),
    ("scale_channels", "mixer.x_in"),
    ("scale_channels", "mixer.y"),
    ("scale_delta", "mixer.delta"),
    ("scale_time_constants", "mixer.A"),
    ("scale_gate", "mixer.gate"),
    ("scale_channels", "mixer.B"),
    ("scale_channels", "mixer.C"),
)


@variant("mamba")
def mamba() -> Variant:
    """Read-out, step size, gate, and the coordinates of B and C, beside what blocks add."""
    return replace(default_variant("mamba"), places=PLACES)
