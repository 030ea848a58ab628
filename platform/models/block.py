"""`Block`, a layer of the backbone: a norm, a mixer and, in some architectures, a feed-forward part; and `Backbone`.

Sites, states and the mixer's own steps are the mixer's; here they get their place around the residual stream.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from .access.run import Run
from .gated_timescales import GatedTimescales
from .linear_recurrence import Recurrence
from .mixer import MIXERS, LayerState, Mixer, SiteInfo
from .model_config import ModelConfig


class Block(nn.Module):
    """residual += mixer(norm(residual)); then, where the architecture has one, += feed_forward(norm_2(residual))."""

    #: whether it also computes with parameters that are not its own
    borrows: ClassVar[bool] = False

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        architecture = MIXERS.get(config.arch)
        self.norm = architecture.block_norm(config)
        self.mixer = architecture.for_layer(config, layer)
        self.feed_forward = architecture.feed_forward(config, layer)
        has_two = self.feed_forward is not None
        self.norm_2 = architecture.block_norm(config) if has_two else None
        self.width, self.wide_residual = config.d_model, config.residual_in_fp32

    def site_table(self) -> list[SiteInfo]:
        """The block's sites, those of its parts among them, in the order in which a forward pass meets them."""
        d = (self.width,)
        wide = self.wide_residual
        found = [
            SiteInfo("resid_pre", d, "residual stream before the block", wide),
            SiteInfo("mixer_in", d, "normed residual, the mixer's input"),
            *(info._replace(name="mixer." + info.name) for info in self.mixer_sites()),
            SiteInfo("mixer_out", d, "what the mixer adds to the residual stream"),
        ]
        if self.feed_forward is not None:
            found += [
                SiteInfo("resid_mid", d, "residual stream between mixer and feed-forward", wide),
                SiteInfo("mlp_in", d, "normed residual, the feed-forward part's input"),
                *(info._replace(name="mlp." + info.name) for info in self.feed_forward.site_table()),
                SiteInfo("mlp_out", d, "what the feed-forward part adds to the residual stream"),
            ]
        return [*found, SiteInfo("resid_post", d, "residual stream after the block", wide)]

    def forward(
        self, residual: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        residual = run.site(prefix + "resid_pre", residual)
        u = self.norm(residual)
        u = run.site(prefix + "mixer_in", u)
        out, new_state = self.mix(u, run, prefix + "mixer.", state, need_state)
        residual = residual + run.site(prefix + "mixer_out", out)
        if self.feed_forward is not None and self.norm_2 is not None:
            residual = run.site(prefix + "resid_mid", residual)
            u = run.site(prefix + "mlp_in", self.norm_2(residual))
            residual = residual + run.site(prefix + "mlp_out", self.feed_forward(u, run, prefix + "mlp."))
        return run.site(prefix + "resid_post", residual), new_state

    # What an adapter's block does with another mixer, or with two.

    def mix(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        """The mixer's output for its input u (B, T, d), and the layer's new state."""
        at_once = None
        if state is not None and run.plain_step(prefix):
            at_once = self.mixer.step(u, state, run.overwrite)
        return at_once or self.mixer(u, run, prefix, state, need_state)

    def mixer_sites(self) -> list[SiteInfo]:
        """The sites below `mixer.`."""
        return self.mixer.site_table()

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        """The mixer's linear recurrences; their sites stand below `mixer.`."""
        return self.mixer.recurrences(dtype)

    def gated_timescales(self) -> tuple[GatedTimescales, ...]:
        """What the mixer says of its gates and timescales; () for most."""
        return self.mixer.gated_timescales() if isinstance(self.mixer, Mixer) else ()

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        """The layer's state before the first token."""
        return self.mixer.zero_state(batch, dtype, device)


class Backbone(nn.Module):
    """Everything but the head; exists so that parameter names match the hub's checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # nothing is drawn: every weight is set by who builds or loads, and torch imports its compiler, for seconds, to
        # draw on "meta"
        self.embeddings = nn.Embedding.from_pretrained(torch.zeros(config.vocab_size, config.d_model), freeze=False)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm_f = MIXERS.get(config.arch).final_norm(config)
