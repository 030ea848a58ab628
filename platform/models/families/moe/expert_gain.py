"""The site `expert_gain`: a factor (B, T, E) on what each expert says, 1 unless an edit says otherwise.

It is there so that an expert can be made louder or silent for the tokens that choose it, wherever they are, which no
mask over positions can say beforehand. It is made only when it is looked at or edited; otherwise nothing is multiplied.
"""

from __future__ import annotations

from torch import Tensor

from ...access.run import Run
from ...mixer import SiteInfo

NAME = "expert_gain"


def gain_site(n_experts: int) -> SiteInfo:
    """The site, for the table of a mixture with `n_experts`."""
    return SiteInfo(NAME, (n_experts,), "factor on what each expert says, 1 unless edited")


def with_gain(run: Run, prefix: str, said: Tensor, index: Tensor, n_experts: int) -> Tensor:
    """What the chosen experts say, said (B, T, k, d), times their gain. index (B, T, k): experts, or negative."""
    if not run.active(prefix + NAME):
        return said
    gain = run.site(prefix + NAME, said.new_ones(*said.shape[:2], n_experts))
    return said * gain.gather(-1, index.clamp(min=0))[..., None]
