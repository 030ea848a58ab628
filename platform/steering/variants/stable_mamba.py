"""Stable-Mamba: three memories of different speed behind an ensemble of gates, mixed by weights that add up to 1.

What enters is decided by three gates, what is remembered for how long by which memory it is in. So each gate is a
place, each memory's read-out is one, and the weights between them are shifted as a whole, not channel by channel.
Step sizes belong to heads of one memory each; it takes a factor of about 5 to make a slow head a medium one.
"""

from __future__ import annotations

from dataclasses import replace

from . import Variant, default_variant, variant


@variant("stable_mamba")
def stable_mamba() -> Variant:
    """The gates, the three read-outs and the weights between them, and step sizes, beside what blocks add."""
    return replace(
        default_variant("stable_mamba"),
        places=(
            ("scale_channels", "mixer_out"),
            ("shift_timescale", "mixer.timescale_weights"),
            *(("scale_channels", f"mixer.ssm_{name}") for name in ("fast", "medium", "slow")),
            ("scale_channels", "mixer.gate"),
            *(("scale_stable_gate", f"mixer.gate_{k}") for k in range(3)),
            ("scale_delta", "mixer.delta"),
            ("scale_time_constants", "mixer.A"),
        ),
    )
