"""Intervals and p-values for small, paired, often binary samples that come in groups. numpy, float64, seeded.

- `mean_interval`: a mean and the interval that covers it; `wilson`: of a proportion.
- `paired_difference`: a mean difference, its interval and p-value, of one test: they never disagree about zero.
- `sign_flip_p`: two-sided permutation p-value of a mean difference; exact for up to 16 non-zero differences.
- `rank_p`: of a value among draws of chance; `holm`: p-values corrected for their number.
- `effect_size`: Cohen's h of shares, or the standardised difference.
- `power`, `power_curve`, `minimum_detectable_effect`, `groups_needed`: what a number of questions can find.
- `bootstrap_mean`: percentile (default) or BCa interval of a mean; `bootstrap_ratio`: of sum(a) / sum(b), such as bits
  per byte over documents; `bootstrap_columns`: of many of them at once.
- `correlations`: of quantities with an outcome, with permutation p-values; point-biserial where the outcome is 0 or 1.
- `groups_differ_p`: permutation p-value of a difference in the outcome's mean between groups.
- `intraclass`: how much of what differs among values differs between their groups, ICC(1,1) and ICC(1,k).

Promises: fewer than two values (or groups) give None, never a made-up number; the same values and seed give the same
result, bit for bit; NaN or infinity among the values is an error, because a failed row must have been left out by its
status before. The value is that of a question (what several draws of a control say about one question is averaged
first); `groups` names what its questions have in common, a document or an article, and groups are flipped, resampled
and counted whole, while means stay means over questions. benchmarks/intervals.py measures what the intervals cover.
"""

from __future__ import annotations

from .agreement import IntraClass, intraclass
from .association import Correlation, correlations, groups_differ_p
from .columns import Columns, bootstrap_columns
from .differences import Difference, effect_size, holm, paired_difference, rank_p
from .flips import sign_flip_p
from .intervals import Estimate, bootstrap_mean, bootstrap_ratio, mean_interval, wilson
from .power import groups_needed, minimum_detectable_effect, power, power_curve
from .samples import Resampling

__all__ = [
    "Columns",
    "Correlation",
    "Difference",
    "Estimate",
    "IntraClass",
    "Resampling",
    "bootstrap_columns",
    "bootstrap_mean",
    "bootstrap_ratio",
    "correlations",
    "effect_size",
    "groups_differ_p",
    "groups_needed",
    "holm",
    "intraclass",
    "mean_interval",
    "minimum_detectable_effect",
    "paired_difference",
    "power",
    "power_curve",
    "rank_p",
    "sign_flip_p",
    "wilson",
]
