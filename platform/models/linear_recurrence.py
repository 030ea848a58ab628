"""What a mixer says of its linear recurrences (`Mixer.recurrences`), so that analyses need not know the mixer.

    h_t = exp(Delta_t A) h_{t-1} + w_t B_t x_t,     y_t = Re(C_t . h_t) + D x_t

w_t is Delta_t (Mamba, Mamba-2 and their relatives), 1 - exp(-Delta_t) where the state is an average of what was written
(Stable-Mamba), or 1 where nothing but A decides how fast it forgets (the modal filters of StripedHyena).

U units have an A and a Delta of their own and P channels each, channel e = u P + p; G groups of neighbouring units
share B and C; N coordinates. The states (B, E, N) are the sites `h` and `h_post` beside the others, where the mixer
shows them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: below this, the series of (1 - exp(-s)) / s is more accurate than the quotient, and so is its derivative
_SERIES_BELOW = {torch.float64: 1e-4}
_SERIES_BELOW_FLOAT32 = 1e-2


@dataclass(frozen=True, eq=False)
class ConvolutionAndGate:
    """What stands around a scan that has nothing else around it: x = silu(conv(x_in)), and silu(gate) * y goes on.

    taps (E, k), oldest first, and bias (E): of the depthwise causal convolution; x_in, gate: sites.
    """

    taps: Tensor
    bias: Tensor
    x_in: str = "x_in"
    gate: str = "gate"

    @classmethod
    def of(cls, conv: nn.Conv1d, channels: int) -> ConvolutionAndGate:
        """With the first `channels` of what `conv` convolves, and the usual names of sites."""
        taps = conv.weight.detach()[:channels, 0]
        return cls(taps, torch.zeros_like(taps[:, 0]) if conv.bias is None else conv.bias.detach()[:channels])


@dataclass(frozen=True, eq=False)
class Recurrence:
    """One linear recurrence; see the module for the letters.

    A (U, N), or (U, 1) where all coordinates of a unit decay alike; complex where h is, which sites show as (E, 2 N),
    real and imaginary part in turn. D (U), or None.
    x, delta, B, C: names of the sites that hold them, (B, T, E), (B, T, U) and (B, T, G N) twice. Without a site, Delta
    is 1 (None), and B and C are 1 (None) or a constant (G, N).
    outputs: the sites whose values, side by side, are y. None where more than this recurrence enters its states or what
    reads them: then neither can be rebuilt from the sites named here.
    groups: G. averaging: w is 1 - exp(-Delta). within: what all these names begin with, such as "stable.".
    around: what stands around the scan; None where that is more than a convolution and a gate.
    """

    A: Tensor
    D: Tensor | None = None
    x: str = "x"
    delta: str | None = "delta"
    B: str | Tensor | None = "B"
    C: str | Tensor | None = "C"
    outputs: tuple[str, ...] = ("y",)
    groups: int = 1
    averaging: bool = False
    within: str = ""
    around: ConvolutionAndGate | None = None

    @property
    def kind(self) -> str:
        """selective, averaging, or modal where Delta is no choice of the token."""
        if self.delta is None:
            return "modal"
        return "averaging" if self.averaging else "selective"

    def written(self, delta: Tensor) -> Tensor:
        """w of the given Delta, which is 1 where `delta` is None."""
        return -torch.expm1(-delta) if self.averaging else delta


def write_share(delta: Tensor) -> Tensor:
    """(1 - exp(-delta)) / delta, by which the input of a scan that writes delta x is multiplied to average; 1 at 0."""
    near = delta.abs() < _SERIES_BELOW.get(delta.dtype, _SERIES_BELOW_FLOAT32)
    series = 1.0 - delta / 2 * (1.0 - delta / 3 * (1.0 - delta / 4))
    apart = torch.where(near, torch.ones_like(delta), delta)  # keeps 0 / 0 out of the gradient as well
    return torch.where(near, series, -torch.expm1(-apart) / apart)
