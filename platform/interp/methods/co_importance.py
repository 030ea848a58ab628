"""What belongs together among components: importance at the same tokens, effects that do not add up, kinds of question.

- Co-importance of two components: the cosine of their importances over tokens, 1 where they always come together, 0
where
  never. Clusters are joined by the mean co-importance between their members (average linkage) down to a least value;
  nothing says how many there are.
- Interaction of two ablations: I = dL_ij - dL_i - dL_j of losses. Below 0 where one already does the damage of both
(links
  of one chain), above 0 where each makes up for the loss of the other, 0 where they have nothing to do with each other.
- Specialisation: how much more important something is in one kind of question than in the others, (a - b) / (a + b) of
  the mean importance in that kind and over the rest; 1 where it is important there alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import InputError, UsageError

Floats = NDArray[np.float64]


def co_importance(importances: ArrayLike) -> Floats:
    """Cosines (C, C) of importances (tokens, C), none below 0; 0 beside a component that is never important.

    Raises UsageError for importances that are not finite, below 0 or of another shape.
    """
    g = np.asarray(importances, np.float64)
    if g.ndim != 2 or not np.isfinite(g).all() or (g < 0).any():
        raise UsageError(f"importances are finite numbers of at least 0 in an array (tokens, C), not {g.shape}")
    lengths = np.sqrt((g**2).sum(0))
    unit = g / np.where(lengths > 0, lengths, 1.0)
    together = np.clip(unit.T @ unit, 0.0, 1.0)
    np.fill_diagonal(together, np.where(lengths > 0, 1.0, 0.0))
    return together


def importance_clusters(together: ArrayLike, least: float) -> list[list[int]]:
    """Clusters of components by their co-importance (C, C), the largest first (of equals the one with the first
    member).

    Two clusters are joined as long as the mean co-importance between their members is at least `least`. Raises
    UsageError for one that is not between 0 and 1.
    """
    if not 0 < least <= 1:
        raise UsageError(f"the least co-importance in a cluster lies between 0 and 1, not at {least}")
    x = np.asarray(together, np.float64)
    if len(x) < 2:
        return [[i] for i in range(len(x))]
    from scipy.cluster.hierarchy import fcluster, linkage  # here, because importing it takes time

    upper = np.triu_indices(len(x), 1)  # in the order that scipy wants distances in
    numbers = fcluster(linkage(1.0 - x[upper], "average"), 1.0 - least + 1e-12, "distance")
    found: dict[int, list[int]] = {}
    for member, number in enumerate(numbers.tolist()):
        found.setdefault(number, []).append(member)
    return sorted(found.values(), key=lambda members: (-len(members), members[0]))


def cohesion(together: ArrayLike, members: Sequence[int]) -> float | None:
    """Mean co-importance of different members; None for a single one."""
    x = np.asarray(together, np.float64)[np.ix_(members, members)]
    n = len(members)
    return float((x.sum() - np.trace(x)) / (n * (n - 1))) if n > 1 else None


def interaction(both: ArrayLike, first: ArrayLike, second: ArrayLike, clean: ArrayLike) -> Floats:
    """I = (L_ij - L) - (L_i - L) - (L_j - L) of losses prompt by prompt, each (n,)."""
    ij, i, j, none = (np.asarray(x, np.float64) for x in (both, first, second, clean))
    return (ij - none) - (i - none) - (j - none)


class Specialisation(NamedTuple):
    """kind: where it is most important, with its mean there; contrast: (a - b) / (a + b), see the module; None where
    there is a single kind, or no importance at all."""

    kind: str
    mean: float
    contrast: float | None


def specialisation(importances: Sequence[float], kinds: Sequence[str]) -> Specialisation:
    """Of one component or cluster, from its importance in each prompt and the kinds of these.

    Raises InputError where there are no prompts.
    """
    if not importances or len(importances) != len(kinds):
        raise InputError(
            f"specialisation: {len(importances)} importances and {len(kinds)} kinds; give one for each prompt"
        )
    by_kind: dict[str, list[float]] = {}
    for value, kind in zip(importances, kinds, strict=True):
        by_kind.setdefault(kind, []).append(value)
    means = {kind: float(np.mean(values)) for kind, values in by_kind.items()}
    kind = max(sorted(means), key=lambda name: means[name])
    rest = [value for value, other in zip(importances, kinds, strict=True) if other != kind]
    if not rest or means[kind] <= 0:
        return Specialisation(kind, means[kind], None)
    others = float(np.mean(rest))
    return Specialisation(kind, means[kind], (means[kind] - others) / (means[kind] + others))


def random_sets(size: int, of: int, draws: int, without: Sequence[int], seed: int) -> list[list[int]]:
    """`draws` random sets of `size` among `of` components, the control of a cluster: of others than its own where
    enough are left, else of all."""
    rng = np.random.default_rng(seed)
    others = [i for i in range(of) if i not in set(without)]
    pool = others if len(others) >= size else list(range(of))
    return [sorted(int(i) for i in rng.choice(pool, size, replace=False)) for _ in range(draws)]
