"""Difference sampling (MiniPLM, Gu et al. 2024, arXiv 2410.17215, section 2): which chunks are kept.

The score of a chunk is by how much the teacher predicts it better than the reference, in nats a token:

    score = (nll_reference - nll_teacher) / tokens

What both predict alike, the common and easy and the noise that nobody can predict, has a score near 0. Pure functions
of arrays.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Selection(NamedTuple):
    """kept: (n,) bool, in corpus order; threshold: the lowest score that is kept, None where nothing is."""

    kept: NDArray[np.bool_]
    threshold: float | None


def scores(
    reference: NDArray[np.float64], teacher: NDArray[np.float64], units: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scores (n,) of chunks with these negative log-likelihoods (nats; NaN where there is none) and sizes (tokens, or
    bytes where the two models have different tokens)."""
    return (reference - teacher) / units


def select(found: NDArray[np.float64], keep: float) -> Selection:
    """The share `keep`, rounded up, of the chunks with a finite score: the highest ones, of equal ones the first."""
    scored = np.isfinite(found)
    n_kept = math.ceil(Fraction(str(keep)) * int(scored.sum()))  # exact: 0.1 of 30 are 3
    order = np.argsort(np.where(scored, -found, np.inf), kind="stable")[:n_kept]
    kept = np.zeros(len(found), dtype=np.bool_)
    kept[order] = True
    return Selection(kept, float(found[order[-1]]) if n_kept else None)
