"""The order in which rows are read: a permutation per epoch, computed for single positions, nothing stored.

row = f(seed, epoch, index). The function is a keyed permutation of 0..n-1 (a four-round Feistel network over the next
power of four, applied again while the value is outside; see Black and Rogaway 2002, "cycle walking"), so the state of
the sampler is one integer, and neither resuming nor another batch size changes which row comes when.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4
_MASK64 = (1 << 64) - 1


def _splitmix(x: int) -> int:
    """SplitMix64: a well-mixed 64-bit number from a 64-bit number (Steele et al. 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def permuted(index: int, n: int, seed: int, epoch: int) -> int:
    """Position `index` of the permutation of range(n) that belongs to a seed and an epoch."""
    assert 0 <= index < n
    half = max(1, ((n - 1).bit_length() + 1) // 2)  # bits of one half; the domain is at most four times n
    mask = (1 << half) - 1
    key = _splitmix(_splitmix(seed & _MASK64) ^ epoch)
    value = index
    while True:
        left, right = value >> half, value & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (_splitmix(key ^ (right << 8) ^ number) & mask)
        value = (left << half) | right
        if value < n:
            return value


def rows_of_step(step: int, batch_size: int, n: int, seed: int) -> NDArray[np.int64]:
    """The rows (batch_size,) of optimizer step `step`: positions step * batch_size and on, over epochs without end."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    return np.array([permuted(p % n, n, seed, p // n) for p in positions], dtype=np.int64)
