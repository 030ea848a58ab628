"""Feed-forward parts of adapted models, with the parameter names of transformers' classes and a site for hidden units.

PlainMlp:   y = down(act(up(u)))
GatedUnit:  y = down(act(gate(u)) * up(u))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..access.run import Run
from ..mixer import FeedForward, SiteInfo
from .base import Part

Activation = Callable[[Tensor], Tensor]


class PlainMlp(FeedForward):
    """Two layers. Shapes: u (B, T, d) -> hidden (B, T, width) -> (B, T, d)."""

    def __init__(self, up: Part, down: Part, act: Activation, width: int) -> None:
        super().__init__()
        self.add_module(up.attribute, up.module)
        self.add_module(down.attribute, down.module)
        self.up_name, self.down_name, self.act, self.hidden_width = up.attribute, down.attribute, act, width

    def site_table(self) -> list[SiteInfo]:
        return [SiteInfo("hidden", (self.hidden_width,), "hidden units after the activation")]

    def forward(self, u: Tensor, run: Run, prefix: str) -> Tensor:
        hidden = self.act(self.get_submodule(self.up_name)(u))
        return self.get_submodule(self.down_name)(run.site(prefix + "hidden", hidden))


class GatedUnit(FeedForward):
    """Three layers. Shapes as in `PlainMlp`. gate_scale, out_scale: factors that some models put at the gate's scores
    and at the output."""

    def __init__(self, theirs: Any, gate_scale: float = 1.0, out_scale: float = 1.0) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = theirs.gate_proj, theirs.up_proj, theirs.down_proj
        self.act, self.gate_scale, self.out_scale = theirs.act_fn, gate_scale, out_scale

    def site_table(self) -> list[SiteInfo]:
        return [SiteInfo("hidden", (self.up_proj.out_features,), "act(gate) * up, the input of down_proj")]

    def forward(self, u: Tensor, run: Run, prefix: str) -> Tensor:
        gate = self.act(self.gate_proj(u) * self.gate_scale)
        hidden = run.site(prefix + "hidden", gate * self.up_proj(u))
        return self.down_proj(hidden) * self.out_scale
