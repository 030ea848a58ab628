"""Mixtures of experts of adapted models: a router chooses, experts are asked, their answers are weighted and added.

Each expert has its own layers under the names that files use (`experts.3.up_proj.weight`); transformers stacks them
when it loads. Router scores are float32 (float64 in a float64 model), as transformers computes the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import UsageError
from ..access.run import Run
from ..families.moe import ask_experts
from ..families.moe.expert_gain import gain_site, with_gain
from ..mixer import FeedForward, SiteInfo
from ..parts.norms import wide
from .base import Part


def linear(weight: Tensor) -> nn.Linear:
    """A layer without bias that has this weight, as a parameter of its own."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    return layer


class PlainExpert(nn.Module):
    """down(act(up(x)))."""

    def __init__(self, up: Tensor, down: Tensor, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up_proj, self.down_proj, self.act = linear(up), linear(down), act

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.up_proj(x)))


class GatedExpert(PlainExpert):
    """down(act(gate(x)) * up(x)), from a stacked (2 f, d) weight whose first half is the gate's."""

    def __init__(self, gate_up: Tensor, down: Tensor, act: Callable[[Tensor], Tensor]) -> None:
        gate, up = gate_up.chunk(2)
        super().__init__(up, down, act)
        self.gate_proj = linear(gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class MixtureOfExperts(FeedForward):
    """Base: subclasses say how a choice follows from the scores. Shapes: u (B, T, d); scores (B, T, E).

    router: a module with a `weight` (E, d), and what else `choose` needs. top_k: experts per token, k.
    """

    def __init__(self, router: Part, experts: Sequence[PlainExpert], top_k: int) -> None:
        super().__init__()
        self.add_module(router.attribute, router.module)
        self.router_name, self.top_k = router.attribute, top_k
        self.experts = nn.ModuleList(experts)
        self.heard_width = experts[0].down_proj.out_features

    @property
    def n_idle_parameters(self) -> int:
        """How many of the parameters one token does not use: those of the experts that were not chosen."""
        return (len(self.experts) - self.top_k) * sum(weight.numel() for weight in self.experts[0].parameters())

    @property
    def scorer(self) -> Any:
        """The router's module."""
        return self.get_submodule(self.router_name)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers (B, T, k) of the chosen experts, from the router's scores."""
        raise UsageError(f"{type(self).__name__} does not say how experts are chosen")

    def site_table(self) -> list[SiteInfo]:
        k = (self.top_k,)
        return [
            SiteInfo("router_logits", (len(self.experts),), "scores of all experts", wide=True),
            SiteInfo("expert_index", k, "the chosen experts", wide=True, editable=False),
            SiteInfo("router", k, "weights of what the chosen experts say", wide=True),
            gain_site(len(self.experts)),
            SiteInfo("expert_out", (self.heard_width,), "the weighted sum of what the chosen experts say"),
        ]

    def forward(self, u: Tensor, run: Run, prefix: str) -> Tensor:
        return self.ask(u, u, run, prefix)

    def ask(self, u: Tensor, inputs: Tensor, run: Run, prefix: str) -> Tensor:
        """What the experts that u (B, T, d) chooses say to `inputs` (B, T, experts' width)."""
        dtype = wide(u.dtype)
        logits = run.site(prefix + "router_logits", F.linear(u.to(dtype), self.scorer.weight.to(dtype)))
        weights, index = self.choose(logits)
        run.site(prefix + "expert_index", index.to(dtype))
        weights = run.site(prefix + "router", weights)
        said = ask_experts(inputs.flatten(0, 1), index.flatten(0, 1), list(self.experts)).unflatten(0, u.shape[:2])
        said = with_gain(run, prefix, said, index, len(self.experts))
        return run.site(prefix + "expert_out", (said * weights[..., None]).sum(2).to(u.dtype))
