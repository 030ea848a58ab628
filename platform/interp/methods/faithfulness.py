"""How much of what a model does a circuit does, over circuits of growing size.

With m(C) the metric, mean over prompts, when all edges outside of C carry the corrupted run's values,

    f(C) = (m(C) - m(empty)) / (m(full) - m(empty))

is 1 where the circuit does what the model does and 0 where it does what the corrupted run does. Over circuits C_k of
the k edges ranked first, x = k / all edges (Mueller et al., arXiv 2504.13151, section 3.1):

    CPR = integral of f over x,        CMD = integral of |1 - f| over x,

by trapezoids between the fractions that were measured, from f(0) = 0 on. CPR is high where edges that help come first
(above 1 where edges that harm are left out); CMD is 0 where already the smallest circuit does what the model does, no
more and no less. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError

#: of all edges, as the benchmark has them
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_SAME = 1e-9  # of the metric's size: below that, clean and corrupted runs do not differ


class Areas(NamedTuple):
    """cpr: area below the curve; cmd: between the curve and 1. Both over the fraction of edges, from 0 to 1."""

    cpr: float
    cmd: float


def circuit_sizes(edges: int, fractions: Sequence[float] = FRACTIONS) -> list[int]:
    """Different numbers of edges, ascending, nearest to these fractions, at least one and with all of them.

    Raises UsageError for fractions outside of (0, 1].
    """
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise UsageError(f"fractions of the edges lie in (0, 1], not {list(fractions)}")
    return sorted({max(1, round(fraction * edges)) for fraction in (*fractions, 1.0)})


def faithfulness(circuit: ArrayLike, full: ArrayLike, empty: ArrayLike) -> float | None:
    """f of metrics (n,) over the same prompts; None where full and empty runs do not differ, or without prompts."""
    values = [np.asarray(x, np.float64) for x in (circuit, full, empty)]
    if not len(values[1]):
        return None
    part, whole, nothing = (float(x.mean()) for x in values)
    scale = max(float(np.abs(values[1]).mean()), float(np.abs(values[2]).mean()))
    if abs(whole - nothing) <= _SAME * scale:
        return None
    return (part - nothing) / (whole - nothing)


def areas(sizes: Sequence[int], f: Sequence[float], edges: int) -> Areas:
    """CPR and CMD of f at circuits of so many edges. Raises UsageError unless sizes ascend from 1 on to all edges."""
    x, y = np.array([0, *sizes], np.float64) / edges, np.array([0.0, *f])
    if len(x) != len(y) or np.any(np.diff(x) <= 0) or x[-1] != 1:
        raise UsageError(f"sizes ascend from 1 to all {edges} edges, each with its f, not {list(sizes)}")
    return Areas(float(np.trapezoid(y, x)), float(np.trapezoid(np.abs(1 - y), x)))


def ranked(scores: ArrayLike) -> NDArray[np.int64]:
    """Numbers of the edges, largest |score| first, equal ones in their order."""
    return np.argsort(-np.abs(np.asarray(scores, np.float64)), kind="stable")


def smallest_faithful(sizes: Sequence[int], f: Sequence[float], enough: float) -> int:
    """The smallest size from which on f stays at `enough` or above; all edges where none is."""
    good = [size for i, size in enumerate(sizes) if all(value >= enough for value in f[i:])]
    return good[0] if good else sizes[-1]


def auc(scores: ArrayLike, planted: ArrayLike) -> float | None:
    """Area under the ROC curve of |scores| for finding what is planted (n,) bool; None where all or none is."""
    value, truth = np.abs(np.asarray(scores, np.float64)), np.asarray(planted, bool)
    if truth.all() or not truth.any():
        return None
    inside, outside = value[truth][:, None], value[~truth][None]
    return float(((inside > outside) + 0.5 * (inside == outside)).mean())
