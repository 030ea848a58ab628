"""The difference of the two means: what the sets differ in on average, whatever varies inside them.

The direction of contrastive activation addition (Rimsky et al. 2024, arXiv 2312.06681, section 3).
"""

from __future__ import annotations

from .method import Direction, Labelled, vector_method


@vector_method("difference_of_means")
def difference_of_means(examples: Labelled) -> Direction:
    """Mean of the positive texts less the mean of the negative ones."""
    return examples.positive.mean(0) - examples.negative.mean(0)
