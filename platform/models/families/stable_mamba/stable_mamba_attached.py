"""Mamba with Stable-Mamba parts added to some of its layers: residual += mamba(u) + mix * stable(u).

The added part's out_proj starts at zero, so that the model starts as the Mamba it was built on (`attach`). Parameters
of the Mamba keep their names, those of the added part stand below `stable.`, and so do its sites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.errors import UsageError
from ...access.run import Run
from ...config_checks import FIELDS, accepted
from ...gated_timescales import GatedTimescales
from ...linear_recurrence import Recurrence
from ...mixer import LayerState, Mixer, SiteInfo, mixer
from ...model_config import ModelConfig
from ...parts.past import PAST
from ..mamba.mamba import MambaMixer
from .options import StableMambaOptions
from .stable_mamba import StableMambaMixer

_PART = "stable"


@dataclass(frozen=True)
class AttachedOptions(StableMambaOptions):
    """layers: those with an added part. mix: factor on what it adds. stable_state_size, stable_expand: its N, and its
    E over d_model (the fields without prefix are the Mamba's). The others as in `StableMambaOptions`."""

    layers: tuple[int, ...] = (0,)
    mix: float = 1.0
    stable_state_size: int = 64
    stable_expand: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("stable_state_size", "stable_expand"):
            accepted(FIELDS[name.removeprefix("stable_")], name, getattr(self, name), "model config", UsageError)
        if not self.layers or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in self.layers):
            raise UsageError(f"stable_mamba_attached: layers must be one or more block numbers, not {self.layers}")
        if len(set(self.layers)) != len(self.layers):
            raise UsageError(f"stable_mamba_attached: layers {self.layers} names a block twice")
        if not math.isfinite(self.mix) or self.mix == 0:
            raise UsageError(f"stable_mamba_attached: mix must be a finite number other than 0, not {self.mix}")


@mixer("stable_mamba_attached")
class AttachedMixer(MambaMixer):
    """Mamba mixer with a Stable-Mamba part beside it; layers that are not named are plain `MambaMixer`s."""

    config_fields: ClassVar[frozenset[str]] = frozenset({"dt_rank", "head_dim"})
    options_class = AttachedOptions
    hf_class = None
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nano": {"head_dim": 16, "stable_state_size": 16},
        **{size: {"head_dim": 32, "layers": (0, 1, 2)} for size in ("tiny", "1m", "3m")},
        **{size: {"layers": (0, 1, 2)} for size in ("130m", "370m", "780m", "790m", "1.3b", "1.4b", "2.7b", "2.8b")},
    }

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """The named layers must exist, and the added part must be a possible Stable-Mamba."""
        if max(config.own.layers) >= config.n_layers:
            raise UsageError(
                f"stable_mamba_attached: layers {config.own.layers} of a model with layers 0 to {config.n_layers - 1}"
            )
        part_config(config)

    @classmethod
    def for_layer(cls, config: ModelConfig, layer: int) -> Mixer:
        """Two mixers in the named layers, Mamba's alone in the others."""
        return cls(config, layer) if layer in config.own.layers else MambaMixer(config, layer)

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        self.stable = StableMambaMixer(part_config(config), layer)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Both parts as they start alone, but the added part's out_proj at zero."""
        super().reset_parameters(generator)
        self.stable.reset_parameters(generator)
        self.stable.out_proj.weight.zero_()

    def reset_to_recall(self, generator: torch.Generator) -> None:
        """Both parts. See `Mixer`."""
        super().reset_to_recall(generator)
        self.stable.reset_to_recall(generator)

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        """Mamba's, then those of the added part."""
        own = (replace(of, around=None) for of in super().recurrences(dtype))
        added = (replace(of, within=f"{_PART}.{of.within}") for of in self.stable.recurrences(dtype))
        return (*own, *added)

    def gated_timescales(self) -> tuple[GatedTimescales, ...]:
        return tuple(replace(of, within=f"{_PART}.{of.within}") for of in self.stable.gated_timescales())

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        return super().zero_state(batch, dtype, device) | _prefixed(self.stable.zero_state(batch, dtype, device))

    def step(self, u: Tensor, state: LayerState, overwrite: bool = False) -> None:
        """No faster way: the added part has none."""
        return None

    def site_table(self) -> list[SiteInfo]:
        added = [
            *self.stable.site_table(),
            SiteInfo("out", (self.config.d_model,), "what the added part contributes to the block's output"),
        ]
        return [*super().site_table(), *(info._replace(name=f"{_PART}.{info.name}") for info in added)]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        own = None if state is None else {k: v for k, v in state.items() if not _is_part(k)}
        part = None if state is None else {_plain(k): v for k, v in state.items() if _is_part(k)}
        out, after = super().forward(u, run, prefix, own, need_state)
        added, part_after = self.stable(u, run, f"{prefix}{_PART}.", part, need_state)
        out = out + run.site(f"{prefix}{_PART}.out", self.config.own.mix * added)
        if after is None or part_after is None:
            return out, None
        return out, after | _prefixed(part_after)


def part_config(config: ModelConfig) -> ModelConfig:
    """The configuration of the added part, as if it were a model of its own."""
    own = StableMambaOptions(**{f.name: getattr(config.own, f.name) for f in fields(StableMambaOptions)})
    return replace(
        config, arch="stable_mamba", state_size=config.own.stable_state_size, expand=config.own.stable_expand, own=own
    )


def _prefixed(state: LayerState) -> LayerState:
    """Names of the added part's state: "stable_h", but "past_stable_k", because a record's name begins with past_."""
    return {
        f"{PAST}{_PART}_{k.removeprefix(PAST)}" if k.startswith(PAST) else f"{_PART}_{k}": v for k, v in state.items()
    }


def _is_part(name: str) -> bool:
    return name.removeprefix(PAST).startswith(f"{_PART}_")


def _plain(name: str) -> str:
    """Inverse of the naming in `_prefixed`."""
    bare = name.removeprefix(PAST).removeprefix(f"{_PART}_")
    return PAST + bare if name.startswith(PAST) else bare
