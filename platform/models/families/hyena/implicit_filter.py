"""Hyena's filters, as long as the context and given by a small network of the lag (Poli et al., arXiv 2302.10866, 3.3).

    z_t = [t', Re e_1 .. Re e_b, Im e_1 .. Im e_b],  e_i = exp(-2 pi i f_i t / L),  f = linspace(1e-4, b - 1, b)
    h = sin(freq * (W z + b)), once for every hidden layer, all with the same learned `freq`
    k_t = (W_out h) * (exp(-t' |rate|) + shift),  t' = linspace(0, 1, L)

L is the longest lag plus one and part of the filter's definition: a shorter text uses a prefix of the same filter. The
rates of the exponential window are fixed, evenly spaced over the channels from slow to fast. z may be learned; what is
kept then is its difference from the formula (`z_offset`, zero at first), because features rounded to bfloat16 go up in
steps of several lags and make the filter jagged. Everything is computed in float32 or wider.

The filter depends on the parameters alone, so without gradients it is computed once and kept until one of them changes:
until its address, version or sum does, because fused optimizers write without raising the version.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.arguments import full_precision
from ...parts.feed_forward import reset_normal
from ...parts.norms import wide


@cache
def lag_fractions(lags: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """t' (L): the lags 0 .. L-1 as fractions of the longest."""
    with torch.inference_mode(False), torch.no_grad():  # kept, and may meet gradients later
        return torch.linspace(0, 1, lags, dtype=torch.float64).to(device=device, dtype=dtype)


@cache
def position_features(lags: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """z (L, width) of the formula above, width = 1 + 2 b."""
    with torch.inference_mode(False), torch.no_grad():
        bands = (width - 1) // 2
        frequency = torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64)
        angle = 2 * math.pi / lags * torch.arange(lags, dtype=torch.float64)[:, None] * frequency
        fraction = lag_fractions(lags, torch.float64, torch.device("cpu"))[:, None]
        return torch.cat([fraction, angle.cos(), -angle.sin()], 1).to(device=device, dtype=dtype)


class ImplicitFilter(nn.Module):
    """Filters (channels, L) of `channels` channels. width: of the network; emb_dim: of z, odd; learned: whether z is.

    slow, fast, target: the slowest channel's window falls to `target` at lag slow * L, the fastest one's at fast * L.
    shift: what the window keeps of every lag.
    """

    rates: Tensor

    def __init__(
        self, channels: int, lags: int, width: int, emb_dim: int, n_inner: int, *,
        sine_freq: float, slow: float, fast: float, target: float, shift: float, learned: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.lags = lags
        self.shift = shift
        self._start = (sine_freq, -math.log(target) / slow, -math.log(target) / fast)
        self.emb_dim = emb_dim
        self.z_offset = nn.Parameter(torch.empty(lags, emb_dim)) if learned else None
        sizes = [emb_dim, *[width] * (n_inner + 1)]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.freq = nn.Parameter(torch.empty(width))
        self.out = nn.Linear(width, channels, bias=False)
        self.register_buffer("rates", torch.empty(channels))
        self._kept: tuple[list[Any], Tensor, list[Tensor], Tensor] | None = None

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Reference initialisation: all layers N(0, 0.02), which `freq` makes up for; window and z by formula."""
        sine_freq, slow, fast = self._start
        if self.z_offset is not None:
            self.z_offset.zero_()
        for layer in (*self.hidden, self.out):
            assert isinstance(layer, nn.Linear)
            reset_normal(layer, generator)
        self.freq.fill_(sine_freq)
        self.rates.copy_(torch.linspace(slow, fast, len(self.rates)))

    @torch.no_grad()
    def reset_to_window(self) -> None:
        """Make every filter its window, plus what the reference initialisation makes of the other hidden units.

        The last hidden unit becomes sin(pi / 2) = 1 whatever the lag, and every channel adds it.
        """
        last = self.hidden[-1]
        assert isinstance(last, nn.Linear)
        last.weight[-1] = 0.0
        last.bias[-1] = math.pi / 2 / self._start[0]
        self.out.weight[:, -1] = 1.0

    def forward(self) -> Tensor:
        """k (channels, L) at the lags 0 .. L-1, float32 or wider."""
        sources = [self.rates, *self.parameters()]
        if torch.is_grad_enabled() or any(s.is_inference() for s in sources):
            return self._computed()
        key = [(s.data_ptr(), s.dtype, s._version) for s in sources]
        sums = torch.stack([s.detach().sum(dtype=torch.float64) for s in sources])
        kept = self._kept
        if kept is None or kept[0] != key or not torch.equal(kept[1], sums):
            with torch.inference_mode(False), torch.no_grad():
                # Holding on to the memory keeps its address from meaning other numbers one day.
                self._kept = kept = (key, sums, [s.detach() for s in sources], self._computed())
        return kept[3]

    def _computed(self) -> Tensor:
        with full_precision(self.freq):
            return self._by_formula()

    def _by_formula(self) -> Tensor:
        dtype = wide(self.freq.dtype)
        device = self.freq.device
        h = position_features(self.lags, self.emb_dim, dtype, device)
        if self.z_offset is not None:
            h = h + self.z_offset
        freq = self.freq.to(dtype)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            h = torch.sin(freq * F.linear(h, layer.weight.to(dtype), layer.bias.to(dtype)))
        window = torch.exp(-self.rates.to(dtype)[:, None] * lag_fractions(self.lags, dtype, device))
        return F.linear(self.out.weight.to(dtype), h) * (window + self.shift)
