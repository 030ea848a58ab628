"""MoE-Mamba (arXiv 2401.04081) and BlackMamba (arXiv 2402.01771): Mamba blocks and mixtures of experts in turn.

    residual += Mamba(norm(residual));  residual += MoE(norm(residual));  ...
    MoE(u) = sum over the chosen experts e of weight_e * FFN_e(u)

A block holds one of both, so that `blocks.0` is Mamba and `blocks.1` the mixture. The router computes in float32 (in a
float64 model float64), autocast or not. Outside training nothing a token gets depends on its neighbours; in training
its expert may (Sinkhorn, capacity). What a router does is in `..moe.routers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.errors import UsageError, suggest
from ...access.run import Run
from ...mixer import LayerState, Mixer, Options, SiteInfo, mixer
from ...model_config import ModelConfig
from ...parts.norms import LayerNorm, RMSNorm, wide
from .. import moe
from ..mamba.mamba import MambaMixer
from .expert_gain import gain_site, with_gain

MAMBA = "r"  # BlackMamba's letter for a recurrent block
INIT_VARIANCE = 0.1  # of a weight, times its fan-in: the Switch Transformer's, a tenth of the usual


@dataclass(frozen=True)
class MoEOptions(Options):
    """n_experts, top_k: E and k. expert_size: inner width f of an expert. router: see `moe.routers`.

    capacity_factor: an expert serves that many times its even share of a forward pass in training, and what overflows
    gets nothing from the block; None: all are served. balance_weight, z_loss_weight: factors of the losses of
    `moe.balance`. expert_activation: "relu" or "gelu_gated". router_bias: whether the router has one.
    layer_pattern: per block "r" for Mamba or the number of experts as a text; () is "r", n_experts, "r", ...
    """

    n_experts: int = 8
    expert_size: int = 1536
    router: str = "switch_softmax"
    top_k: int = 1
    capacity_factor: float | None = 1.0
    balance_weight: float = 0.01
    z_loss_weight: float = 0.0
    expert_activation: str = "relu"
    router_bias: bool = False
    layer_pattern: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("n_experts", "expert_size", "top_k"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"model config: {name} must be a positive integer, not {value!r}")
        for name, valid in (("router", moe.ROUTERS), ("expert_activation", tuple(moe.ACTIVATIONS))):
            if getattr(self, name) not in valid:
                raise UsageError(f"model config: {name} {getattr(self, name)!r}; {suggest(getattr(self, name), valid)}")
        for name in ("balance_weight", "z_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"model config: {name} must be 0 or more, not {getattr(self, name)!r}")
        if self.capacity_factor is not None and not 0 < self.capacity_factor < math.inf:
            raise UsageError(f"model config: capacity_factor must be above 0 or null, not {self.capacity_factor!r}")
        if self.router != "topk" and self.top_k != 1:
            raise UsageError(f"model config: router {self.router} has one expert per token; for more use router topk")
        if self.router == "topk" and self.top_k < 2:  # its weight would be 1, and nothing would teach the router
            raise UsageError("model config: router topk needs top_k of at least 2; for one use switch_softmax")
        for kind in self.layer_pattern:
            if kind != MAMBA and not (isinstance(kind, str) and kind.isdecimal() and int(kind) >= 1):
                raise UsageError(f"model config: layer_pattern holds {kind!r}; use 'r' or a number of experts as text")

    def experts_of(self, layer: int) -> int:
        """The number of experts of block `layer`, 0 for a Mamba block."""
        if not self.layer_pattern:
            return self.n_experts if layer % 2 else 0
        kind = self.layer_pattern[layer]
        return 0 if kind == MAMBA else int(kind)


@mixer("moe_mamba")
class MoEMixer(Mixer):
    """The mixture of experts of one block; `for_layer` puts Mamba in the others. Shapes as in `..moe`.

    It keeps no state. `expert_load` (E,): the share of tokens each expert was given in the last forward pass in
    training mode, before any was dropped; None before the first.
    """

    config_fields: ClassVar[frozenset[str]] = frozenset({"dt_rank"})
    keep_float32: ClassVar[frozenset[str]] = frozenset({"router"})
    options_class: ClassVar[type[Options]] = MoEOptions
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nano": {"n_experts": 4, "expert_size": 48},
        "tiny": {"n_layers": 6, "state_size": 32, "n_experts": 4, "expert_size": 384},
        # named by the parameters of one token: an expert of 3 d_model has as many as the Mamba block it replaces
        "130m": {"n_experts": 32, "expert_size": 2304},
        "370m": {"n_experts": 8, "expert_size": 3072},
        **{size: {"n_experts": 8, "expert_size": 4608} for size in ("780m", "790m")},
        **{size: {"n_experts": 8, "expert_size": 6144} for size in ("1.3b", "1.4b")},
        **{size: {"n_experts": 8, "expert_size": 7680} for size in ("2.7b", "2.8b")},
    }

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        own: MoEOptions = config.own
        self.options = own
        self.n_experts = own.experts_of(layer)
        d, f = config.d_model, own.expert_size
        _, factor = moe.ACTIVATIONS[own.expert_activation]
        self.router = nn.Linear(d, self.n_experts, bias=own.router_bias)
        self.fc1 = nn.Parameter(torch.empty(self.n_experts, factor * f, d))
        self.fc2 = nn.Parameter(torch.empty(self.n_experts, d, f))
        self.expert_load: Tensor | None = None
        self._auxiliary: Tensor | None = None

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        own: MoEOptions = config.own
        if own.layer_pattern and len(own.layer_pattern) != config.n_layers:
            raise UsageError(
                f"model config: layer_pattern has {len(own.layer_pattern)} entries for {config.n_layers} layers"
            )
        for layer in range(config.n_layers):
            if 0 < own.experts_of(layer) < own.top_k:
                raise UsageError(f"model config: top_k {own.top_k} is above the experts of block {layer}")

    @classmethod
    def for_layer(cls, config: ModelConfig, layer: int) -> Mixer:
        return cls(config, layer) if config.own.experts_of(layer) else MambaMixer(config, layer)

    @property
    def auxiliary_loss(self) -> Tensor | None:
        return self._auxiliary

    @property
    def n_idle_parameters(self) -> int:
        return (self.n_experts - self.options.top_k) * (self.fc1[0].numel() + self.fc2[0].numel())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_auxiliary": None}  # part of a graph: cannot be copied, and is no part of the model

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Normal weights of variance 0.1 / fan-in, cut at two standard deviations, as in the Switch Transformer."""
        for weight in (self.router.weight, self.fc1, self.fc2):
            std = (INIT_VARIANCE / weight.shape[-1]) ** 0.5
            drawn = torch.empty_like(weight, dtype=torch.float32)
            weight.copy_(nn.init.trunc_normal_(drawn, 0.0, std, -2 * std, 2 * std, generator=generator))
        if self.router.bias is not None:
            self.router.bias.zero_()

    def reset_to_recall(self, generator: torch.Generator) -> None:
        """Nothing: a mixture looks at one token and recalls none; the Mamba blocks do."""

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        return {}

    def site_table(self) -> list[SiteInfo]:
        E, k, d = self.n_experts, self.options.top_k, self.config.d_model
        heard = (d,) if k == 1 else (d, k)
        return [
            SiteInfo("router_logits", (E,), "scores of all experts", wide=True),
            SiteInfo("router_probs", (E,), "the experts' probabilities, by which they are chosen", wide=True),
            SiteInfo("expert_index", (k,), "the chosen experts; -1 at padding", wide=True, editable=False),
            SiteInfo("dropped", (k,), "1 where the chosen expert was full (training only)", wide=True, editable=False),
            SiteInfo("router", (k,), "weights of what the chosen experts say; 0 where dropped", wide=True),
            gain_site(E),
            SiteInfo("expert_out", heard, "what the chosen experts say, before weighting"),
        ]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        own, shape = self.options, u.shape[:2]
        dtype = wide(u.dtype)
        bias = None if self.router.bias is None else self.router.bias.to(dtype)
        with torch.autocast(u.device.type, enabled=False):
            logits = F.linear(u.to(dtype), self.router.weight.to(dtype), bias)
        logits = run.site(prefix + "router_logits", logits)
        probs = run.site(prefix + "router_probs", moe.probabilities(logits, own.router))
        p, scores = probs.flatten(0, 1), logits.flatten(0, 1)
        real = None if run.keep is None else run.keep.flatten()
        index = moe.choose(p, scores, own.router, own.top_k, training=self.training, real=real)
        served = torch.ones_like(index, dtype=torch.bool) if real is None else real[:, None].expand_as(index)
        routed = index if real is None else torch.where(served, index, moe.NOWHERE)
        if self.training and own.capacity_factor is not None:
            served = moe.within_capacity(index, self.n_experts, own.capacity_factor, real)
        self._watch(scores, index, real)
        run.site(prefix + "expert_index", routed.to(dtype).unflatten(0, shape))
        run.site(prefix + "dropped", ((routed != moe.NOWHERE) & ~served).to(dtype).unflatten(0, shape))
        weights = moe.weigh(p, index, own.router) * served
        weights = run.site(prefix + "router", weights.unflatten(0, shape))
        going = torch.where(served, index, moe.NOWHERE)
        heard = moe.run_experts(u.flatten(0, 1), going, self.fc1, self.fc2, own.expert_activation)
        heard = with_gain(run, prefix, heard.unflatten(0, shape), index.unflatten(0, shape), self.n_experts)
        if own.top_k == 1:
            said = run.site(prefix + "expert_out", heard[:, :, 0])
            out = said * weights
        else:
            said = run.site(prefix + "expert_out", heard.transpose(2, 3).contiguous())
            out = (said * weights[:, :, None]).sum(-1)
        return out.to(said.dtype), {} if need_state else None

    def _watch(self, scores: Tensor, index: Tensor, real: Tensor | None) -> None:
        """In training mode: the loads, and what is added to the loss."""
        self._auxiliary = None
        if not self.training:
            return
        own = self.options
        self.expert_load = moe.expert_load(index, self.n_experts, real, scores.dtype)
        if own.balance_weight:
            self._auxiliary = own.balance_weight * moe.load_balance_loss(scores, self.expert_load, real)
        if own.z_loss_weight:
            z_loss = own.z_loss_weight * moe.router_z_loss(scores, real)
            self._auxiliary = z_loss if self._auxiliary is None else self._auxiliary + z_loss


@dataclass(frozen=True)
class BlackMambaOptions(MoEOptions):
    """As `MoEOptions`, with what BlackMamba has as defaults: the Sinkhorn assignment balances, no loss and no limit."""

    expert_size: int = 3872
    router: str = "sinkhorn"
    capacity_factor: float | None = None
    balance_weight: float = 0.0
    expert_activation: str = "gelu_gated"
    router_bias: bool = True


@mixer("black_mamba")
class BlackMambaMixer(MoEMixer):
    """As `MoEMixer`; the norm after the last block is a LayerNorm with a bias."""

    options_class: ClassVar[type[Options]] = BlackMambaOptions
    final_norm_class: ClassVar[type[RMSNorm | LayerNorm]] = LayerNorm
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nano": {"n_experts": 4, "expert_size": 32},
        "tiny": {"n_layers": 6, "state_size": 16, "n_experts": 4, "expert_size": 256},
    }
