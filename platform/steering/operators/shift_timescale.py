"""Stable-Mamba: weight moved between the fast, the medium and the slow memory."""

from __future__ import annotations

import torch

from ...models import Edit, Replace
from . import Target, operator


@operator(
    "shift_timescale",
    sites=("mixer.timescale_weights", "mixer.stable.timescale_weights"),
    units=("value",),
    acts_on="",
)
def shift_timescale(target: Target) -> list[Edit]:
    """Move the weights of the timescales towards slow (above 0) or fast (below 0), in logits; they still add up to 1.

    With weights softmax(v) of fast, medium and slow, they become softmax(v + strength (-1, 0, 1)). Two such parts of
    one layer do not add up: the later one starts from the model's weights again.
    """
    name = target.site.removeprefix(target.prefix).removesuffix("weights") + "logits"
    logits = target.block.get_parameter(name).detach().double()
    ramp = torch.linspace(-1.0, 1.0, len(logits), dtype=torch.float64, device=logits.device)
    return [Replace(target.site, torch.softmax(logits + target.strength * ramp, 0))]
