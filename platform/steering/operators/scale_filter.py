"""Hyena: taps of the long filter in a band of lags.

Lag k is how many tokens back the filter looks. A modal filter, as StripedHyena's, has no taps to scale: a band of lags
is not a change of poles or residues. `scale_modes` and `scale_time_constants` change such a filter.
"""

from __future__ import annotations

import torch

from ...core.errors import UsageError
from ...models import Edit, Scale
from . import Target, operator
from .options import whole


@operator(
    "scale_filter",
    sites=("mixer.filter", "mixer.filter_[0-9]"),
    options={"first?": "the smallest lag that is scaled, in tokens", "last?": "the largest"},
)
def scale_filter(target: Target) -> list[Edit]:
    """Multiply the long filter's taps at lags first to last by the strength; other lags and the skip stay.

    Raises UsageError where the band is empty or lies beyond the filter.
    """
    lags = next(int(site.shape[1]) for site in target.model.sites() if site.name == target.site)
    first, last = whole(target, "first", 0), whole(target, "last", lags - 1)
    if not 0 <= first <= last < lags:
        raise UsageError(f"operator scale_filter: {target.site} has lags 0 to {lags - 1}, not a band {first} to {last}")
    by_lag = torch.ones(lags, dtype=torch.float64)
    by_lag[first : last + 1] = target.strength
    return [Scale(target.site, by_lag, channels=target.channels)]
