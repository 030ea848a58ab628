"""The first principal component of the differences between positive and negative texts.

As in representation engineering (Zou et al. 2023, arXiv 2310.01405, section 3.1): differences of pairs, not centred, so
that what all pairs share counts. Where texts are no pairs, it is that of all differences between a positive and a
negative one: their second moment is cov(positive) + cov(negative) + d d', d the difference of the means.
"""

from __future__ import annotations

import numpy as np

from .method import Direction, Labelled, vector_method


@vector_method("pca_of_differences")
def pca_of_differences(examples: Labelled) -> Direction:
    """The direction along which differences of pairs are largest, with the sign of their mean."""
    positive, negative = examples.positive, examples.negative
    between = positive.mean(0) - negative.mean(0)
    if examples.paired:
        rows = positive - negative
    else:  # rows whose second moment is that of all differences
        within = [(x - x.mean(0)) / np.sqrt(len(x)) for x in (positive, negative)]
        rows = np.concatenate([*within, between[None]])
    if not rows.any():  # any direction would do
        return between
    first = np.linalg.svd(rows, full_matrices=False)[2][0]
    return -first if float(between @ first) < 0 else first
