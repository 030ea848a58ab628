"""StripedHyena: Hyena blocks whose filter is a sum of decaying modes, and attention blocks, in turn.

A mode has a loudness (its residue) and a half-life (its pole), which are the same for every token; both are places,
and so are the gates on either side of the filter and its read-out. Attention blocks have neither: there the heads'
read-outs are scaled.
"""

from __future__ import annotations

from dataclasses import replace

from . import Variant, default_variant, variant


@variant("striped_hyena")
def striped_hyena() -> Variant:
    """Modes by residue and by half-life, the gates around the filter, and heads of the attention blocks."""
    return replace(
        default_variant("striped_hyena"),
        places=(
            ("scale_channels", "mixer_out"),
            ("scale_channels", "mixer.long_conv_out"),
            ("scale_modes", "mixer.residues"),
            ("scale_time_constants", "mixer.poles"),
            ("scale_gate", "mixer.x1"),
            ("scale_gate", "mixer.x2"),
            ("scale_channels", "mixer.z"),
        ),
    )
