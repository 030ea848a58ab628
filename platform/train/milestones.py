"""Steps at equal ratios: 1, 2, 3, 6, 10, 18, ... for four in each factor of ten.

What a model learns in phases shows on a logarithmic axis: checkpoints at these steps are kept from being dropped.
"""

from __future__ import annotations

import math


def milestones(per_decade: int, last: int) -> list[int]:
    """The steps 10 ** (k / per_decade), rounded, up to `last`, each once; none for 0."""
    if per_decade < 1 or last < 1:
        return []
    exponents = range(math.floor(math.log10(last) * per_decade) + 2)
    return sorted({step for k in exponents if (step := round(10 ** (k / per_decade))) <= last})
