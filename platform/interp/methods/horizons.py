"""How far back something reaches, from what is left of it at each distance: the horizon, and what ends it.

A profile v_0, v_1, ..., v_{T-1} says what the tokens at each distance from the last one count for. Its horizon at theta
is the largest k with v_k >= theta max v. It is censored where that is the prompt's first token: a longer prompt may
have shown a longer one, so that it is a lower bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError

_GROWTH = 1.5  # of tested distances beyond those that are tested one by one


class Horizon(NamedTuple):
    """tokens: the horizon. at_least: smaller where only some distances were tried, and the horizon lies between them.
    censored: it meets the prompt's beginning, and may be longer."""

    tokens: int
    at_least: int
    censored: bool


def profile_horizon(profile: ArrayLike, theta: float) -> Horizon:
    """The horizon of v (T,), 0 where all of it is 0. Raises UsageError for values that are no profile."""
    values = _checked(profile, theta)
    if values.max() == 0:
        return Horizon(0, 0, False)
    far = int(np.flatnonzero(values >= theta * values.max())[-1])
    return Horizon(far, far, far == len(values) - 1)


def loss_horizon(kept: Sequence[int], lost: ArrayLike, theta: float, floor: float) -> Horizon:
    """The horizon of what is lost when only the last token and `kept` tokens before it are left: the fewest tokens with
    which, and with more of which, less than theta of the largest loss is lost.

    kept: ascending, from 0; the last keeps the whole prompt, so that nothing is lost. lost: at each of them; a largest
    loss up to `floor` is rounding, and the horizon 0. Raises UsageError for values that are no losses.
    """
    values = _checked(lost, theta)
    if len(values) != len(kept) or list(kept) != sorted(set(kept)) or kept[0] != 0 or values[-1] > floor:
        raise UsageError(f"losses at {list(kept)} kept tokens: they begin with none and end with all, losing nothing")
    if values.max() <= floor:
        return Horizon(0, 0, False)
    last = int(np.flatnonzero(values >= theta * values.max())[-1])
    return Horizon(int(kept[last + 1]), int(kept[last]) + 1, last + 1 == len(kept) - 1)


def tried_distances(longest: int, *more: int, dense: int = 4) -> list[int]:
    """Distances from 0 to `longest`: each up to `dense`, then growing by half, with `longest` itself and `more`."""
    found, at = set(range(dense + 1)) | set(more), dense
    while at < longest:
        at = max(at + 1, int(at * _GROWTH))
        found.add(at)
    return sorted({distance for distance in found if 0 <= distance < longest} | {longest})


def _checked(values: ArrayLike, theta: float) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all() or found.min() < 0:
        raise UsageError(f"a profile is a row of finite numbers of at least 0, not of shape {found.shape}")
    if not 0 < theta < 1:
        raise UsageError(f"theta is the share that must be left, strictly between 0 and 1, not {theta}")
    return found
