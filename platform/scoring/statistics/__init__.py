"""Intervals and p-values for small, paired, often binary samples. Pure numpy, float64, seeded, vectorised.

- `bootstrap_mean`: percentile (default) or BCa interval of a mean; of paired differences when given differences.
- `bootstrap_ratio`: percentile interval of sum(a) / sum(b), such as bits per byte over documents.
- `wilson`: interval of a proportion; unlike the bootstrap it is not empty when every answer is right.
- `sign_flip_p`: two-sided permutation p-value of a mean difference; exact for up to 16 non-zero differences.
- `correlations`: of quantities with an outcome, with permutation p-values; point-biserial where the outcome is 0 or 1.
- `groups_differ_p`: permutation p-value of a difference in the outcome's mean between groups.
- `holm`: p-values corrected for their number.

Promises: fewer than two values give None, never a made-up number; the same values and seed give the same result, bit
for bit; NaN or infinity among the values is an error, because a failed row must have been left out by its status
before. The unit of resampling is the question: what several draws of a control say about one question is averaged
first.
"""

from __future__ import annotations

from .association import Correlation, correlations, groups_differ_p
from .differences import Difference, holm, paired_difference, sign_flip_p
from .intervals import Estimate, bootstrap_mean, bootstrap_ratio, mean_interval, wilson
from .samples import Resampling

__all__ = [
    "Correlation",
    "Difference",
    "Estimate",
    "Resampling",
    "bootstrap_mean",
    "bootstrap_ratio",
    "correlations",
    "groups_differ_p",
    "holm",
    "mean_interval",
    "paired_difference",
    "sign_flip_p",
    "wilson",
]
