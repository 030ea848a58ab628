"""The Hyena operator written anew, with sums over tokens and channels only; not a test file."""

from __future__ import annotations

import math

import numpy as np
from mplat.models.families.hyena.hyena import HyenaMixer


def filter_by_formula(mixer: HyenaMixer) -> np.ndarray:
    """(channels, L), written anew in numpy from section 3.3 of the paper and the published program's constants."""
    own, parts = mixer.config.own, mixer.implicit_filter
    L, bands = own.max_length, (own.emb_dim - 1) // 2
    rows = []
    for lag in range(L):
        phases = [2 * math.pi * lag / L * (1e-4 + i * (bands - 1 - 1e-4) / max(1, bands - 1)) for i in range(bands)]
        wave = np.exp(-1j * np.array(phases))
        h = np.concatenate([[lag / (L - 1)], wave.real, wave.imag])
        if parts.z_offset is not None:
            h = h + parts.z_offset[lag].detach().numpy()
        for layer in parts.hidden:
            h = np.sin(parts.freq.detach().numpy() * (layer.weight.detach().numpy() @ h + layer.bias.detach().numpy()))
        decay = np.exp(-lag / (L - 1) * parts.rates.numpy())
        rows.append(parts.out.weight.detach().numpy() @ h * (decay + own.window_shift))
    return np.stack(rows, 1)


def operator_by_loops(mixer: HyenaMixer, u: np.ndarray) -> np.ndarray:
    """The operator of any order on u (T, d), with nothing but sums over tokens and channels."""
    d, n, T = mixer.config.d_model, mixer.config.own.order, len(u)
    p = {name: value.detach().numpy() for name, value in mixer.named_parameters()}
    wide = u @ p["in_proj.weight"].T + p["in_proj.bias"]
    taps, short = p["short_conv.weight"][:, 0], np.zeros_like(wide)
    for t in range(T):
        short[t] = p["short_conv.bias"]
        for back in range(min(t + 1, taps.shape[1])):
            short[t] += taps[:, taps.shape[1] - 1 - back] * wide[t - back]
    *gates, v = (short[:, i * d : (i + 1) * d] for i in range(n + 1))
    k = filter_by_formula(mixer)
    for number, gate in enumerate(gates[:0:-1]):
        v = gate * v
        out = np.zeros_like(v)
        for c in range(d):
            row = c * (n - 1) + number
            for t in range(T):
                reach = range(max(0, t - k.shape[1] + 1), t + 1)
                out[t, c] = p["D"][row] * v[t, c] + sum(k[row, t - s] * v[s, c] for s in reach)
        v = out
    return (gates[0] * v) @ p["out_proj.weight"].T + p["out_proj.bias"]
