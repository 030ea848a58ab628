"""silu, and what it and softplus are the images of: the numbers that weights are set to."""

from __future__ import annotations

import math


def silu(x: float) -> float:
    """x sigmoid(x)."""
    return x / (1.0 + math.exp(-x))


def silu_inverse(y: float) -> float:
    """The x nearest to zero with silu(x) = y, by bisection; y above -0.278, the least that silu can be."""
    assert y > -0.278, y
    low, high = (-1.278, 0.0) if y < 0 else (0.0, y + 1.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if silu(middle) > y else (middle, high)
    return (low + high) / 2


def softplus_inverse(y: float) -> float:
    """The x with log(1 + exp(x)) = y."""
    return math.log(math.expm1(y))
