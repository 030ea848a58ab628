"""The sites that hold what a layer remembers, in its own recurrence and in an added Stable-Mamba part."""

from __future__ import annotations

#: the recurrent state, before or after the read-out of its step; what a text begins with
STATES = tuple(f"mixer.{part}{name}" for part in ("", "stable.") for name in ("h", "h_post", "h_init"))
#: the convolution's window after a step, and what it sees before a text
WINDOWS = tuple(f"mixer.{part}{name}" for part in ("", "stable.") for name in ("conv_state", "conv_init"))
#: what one token adds to the recurrent state
WRITES = ("mixer.write", "mixer.stable.write")
