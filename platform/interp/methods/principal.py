"""The directions in which activations vary most: features beside a model's own channels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError

ORTHONORMAL = 1e-4  # how far products of given directions may be from those of orthonormal ones


def principal_directions(values: ArrayLike, most: int) -> NDArray[np.float64]:
    """Orthonormal rows (k, C) of largest variance of values (n, C), at most `most` and no more than vary."""
    x = np.asarray(values, np.float64)
    x = x - x.mean(0)
    _, sizes, rows = np.linalg.svd(x, full_matrices=False)
    count = int((sizes > 1e-9 * max(float(sizes[0]), 1e-300)).sum())
    return rows[: min(most, count)]


def check_directions(rows: ArrayLike, channels: int, what: str) -> NDArray[np.float64]:
    """`rows` (k, C) in float64. Raises UsageError where they are not orthonormal or C is not `channels`."""
    given = np.asarray(rows, np.float64)
    if given.ndim != 2 or given.shape[1] != channels or not np.isfinite(given).all():
        raise UsageError(f"{what}: directions are (k, {channels}), not {given.shape}")
    if np.abs(given @ given.T - np.eye(len(given))).max() > ORTHONORMAL:
        raise UsageError(f"{what}: directions are orthonormal rows, and these are not; turn them with a QR first")
    return given
