"""The two feed-forward parts that blocks have after their mixer: GPT-2's MLP and the gated one of Llama.

    Mlp:       y = fc2(gelu(fc1(u)))                             Radford et al. 2019, with the tanh form of gelu
    GatedMlp:  y = down_proj(silu(gate_proj(u)) * up_proj(u))    SwiGLU, Shazeer, arXiv 2002.05202

Both act on each token by itself. Weights start as N(0, 0.02), biases at zero; the layer that writes to the residual
stream has 1/sqrt(2 n_layers) of that, because each block adds to the stream twice (GPT-2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..access.run import Run
from ..mixer import FeedForward, SiteInfo

INIT_STD = 0.02


@torch.no_grad()
def reset_normal(layer: nn.Linear | nn.Conv1d, generator: torch.Generator, scale: float = 1.0) -> None:
    """GPT-2's initialisation: weight N(0, 0.02 * scale), bias zero."""
    drawn = torch.empty_like(layer.weight, dtype=torch.float32).normal_(0.0, INIT_STD * scale, generator=generator)
    layer.weight.copy_(drawn)
    if layer.bias is not None:
        layer.bias.zero_()


def residual_scale(n_layers: int) -> float:
    """GPT-2's factor on the weights that write to the residual stream of a model of `n_layers` two-part blocks."""
    return (2 * n_layers) ** -0.5


class Mlp(FeedForward):
    """GPT-2's MLP. Shapes: u (B, T, d) -> hidden (B, T, hidden) -> (B, T, d). n_layers: of the model, for the start."""

    def __init__(self, d: int, hidden: int, *, n_layers: int, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, d, bias=bias)
        self.n_layers = n_layers

    def reset_parameters(self, generator: torch.Generator) -> None:
        reset_normal(self.fc1, generator)
        reset_normal(self.fc2, generator, residual_scale(self.n_layers))

    def site_table(self) -> list[SiteInfo]:
        return [SiteInfo("hidden", (self.fc1.out_features,), "hidden units after gelu, the input of fc2")]

    def forward(self, u: Tensor, run: Run, prefix: str) -> Tensor:
        hidden = run.site(prefix + "hidden", F.gelu(self.fc1(u), approximate="tanh"))
        return self.fc2(hidden)


class GatedMlp(FeedForward):
    """SwiGLU without biases. Shapes: u (B, T, d) -> hidden (B, T, hidden) -> (B, T, d). n_layers: as in `Mlp`."""

    def __init__(self, d: int, hidden: int, *, n_layers: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d, hidden, bias=False)
        self.up_proj = nn.Linear(d, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, d, bias=False)
        self.n_layers = n_layers

    def reset_parameters(self, generator: torch.Generator) -> None:
        reset_normal(self.gate_proj, generator)
        reset_normal(self.up_proj, generator)
        reset_normal(self.down_proj, generator, residual_scale(self.n_layers))

    def site_table(self) -> list[SiteInfo]:
        return [SiteInfo("hidden", (self.up_proj.out_features,), "silu(gate) * up, the input of down_proj")]

    def forward(self, u: Tensor, run: Run, prefix: str) -> Tensor:
        hidden = run.site(prefix + "hidden", F.silu(self.gate_proj(u)) * self.up_proj(u))
        return self.down_proj(hidden)
