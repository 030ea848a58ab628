"""Hyena, long convolutions between gates, of Poli et al. (arXiv 2302.10866), in blocks like those of GPT-2.

    x0, x1, .., x_{n-1}, v = short_conv(in_proj(u))
    for x_i in x_{n-1}, .., x1:  v = x_i * v;  v = k * v + D v      (* with a filter of L lags: a causal convolution)
    out = out_proj(x0 * v)

n is the `order`, 2 in the published language models, with n - 1 filters (`hyena.implicit_filter`). There are no
position embeddings. The filters have `max_length` lags whatever the length of the text: a token reaches no further back
in one layer. Texts may be longer all the same; the original program cuts them off there. Nothing is dropped out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....core.errors import UsageError
from ...access.run import Run
from ...mixer import LayerState, Mixer, Options, SiteInfo, mixer
from ...model_config import ModelConfig
from ...parts.feed_forward import Mlp, reset_normal, residual_scale
from ...parts.norms import LayerNorm, RMSNorm, wide
from ...parts.recall import recall_taps
from ...parts.recurrence import begun, convolve, initial_site, reset_linear
from .implicit_filter import ImplicitFilter
from .long_conv import convolve_long, extend_record

RECALL_TAP = 0.5  # what the recall initialisation leaves of each factor: gates and values multiply
RECALL_READ = 0.05
RECALL_POWER = 1.49  # mean square of what `recall_taps` make of independent inputs, 1 + 0.7^2


@dataclass(frozen=True)
class HyenaOptions(Options):
    """What only Hyena has; the defaults are those of the published language models.

    order: n, the number of gates. max_length: L, the lags of a filter. short_kernel: taps of the short convolution.
    filter_order: width of the network behind a filter; emb_dim: its inputs, odd; num_inner_mlps: its hidden layers
    after the first; sine_freq: of its sines, at the start; learn_positions: whether those inputs are parameters, as in
    the published language models, whose papers do not count them. mlp_ratio: hidden units of the MLP over d_model.
    slow_decay_pct, fast_decay_pct, decay_target, window_shift: the window, see `ImplicitFilter`.
    """

    order: int = 2
    max_length: int = 2048
    short_kernel: int = 3
    filter_order: int = 64
    emb_dim: int = 33
    num_inner_mlps: int = 2
    sine_freq: float = 14.0
    learn_positions: bool = False
    mlp_ratio: int = 4
    slow_decay_pct: float = 1.5
    fast_decay_pct: float = 0.3
    decay_target: float = 0.01
    window_shift: float = 0.0

    def __post_init__(self) -> None:
        least = {"order": 2, "max_length": 2, "short_kernel": 2, "emb_dim": 3, "num_inner_mlps": 0}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise UsageError(f"model config: {field.name} must be true or false, not {value!r}")
                continue
            if isinstance(field.default, int):
                if isinstance(value, bool) or not isinstance(value, int) or value < least.get(field.name, 1):
                    raise UsageError(
                        f"model config: {field.name} must be an integer from {least.get(field.name, 1)} on, "
                        f"not {value!r}"
                    )
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError(f"model config: {field.name} must be a number, not {value!r}")
            object.__setattr__(self, field.name, float(value))
        if self.emb_dim % 2 == 0:
            raise UsageError(f"model config: emb_dim must be odd (time, cosines and sines), not {self.emb_dim}")
        if min(self.slow_decay_pct, self.fast_decay_pct) <= 0 or not 0 < self.decay_target < 1:
            raise UsageError(
                "model config: slow_decay_pct and fast_decay_pct must be positive and decay_target between 0 and 1, "
                f"not {self.slow_decay_pct}, {self.fast_decay_pct} and {self.decay_target}"
            )


@mixer("hyena")
class HyenaMixer(Mixer):
    """Hyena operator. Shapes: u, x0 .. x_{n-1}, v (B, T, d); k (d, L) for each of n - 1 filters."""

    no_decay: ClassVar[frozenset[str]] = frozenset({"implicit_filter", "D"})
    keep_float32: ClassVar[frozenset[str]] = frozenset({"implicit_filter"})
    options_class: ClassVar[type[Options]] = HyenaOptions
    norm_class: ClassVar[type[RMSNorm | LayerNorm]] = LayerNorm
    final_norm_class: ClassVar[type[RMSNorm | LayerNorm]] = LayerNorm
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nano": {"max_length": 64, "filter_order": 8, "emb_dim": 5, "mlp_ratio": 2},
        "tiny": {"d_model": 192, "max_length": 512, "filter_order": 32, "emb_dim": 17, "mlp_ratio": 2},
        "1m": {"n_layers": 2, "max_length": 512, "filter_order": 32, "emb_dim": 17},
        "3m": {"n_layers": 3, "max_length": 512, "filter_order": 32, "emb_dim": 17},
        "130m": {"n_layers": 12},
        "370m": {"n_layers": 24},
        **{size: {"n_layers": 24} for size in ("780m", "790m", "1.3b", "1.4b")},
        **{size: {"n_layers": 32} for size in ("2.7b", "2.8b")},
    }

    @classmethod
    def feed_forward(cls, config: ModelConfig, layer: int) -> Mlp:
        """GPT-2's MLP with mlp_ratio * d_model hidden units."""
        return Mlp(config.d_model, config.own.mlp_ratio * config.d_model, n_layers=config.n_layers)

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        d, own = config.d_model, config.own
        width, taps = (own.order + 1) * d, own.short_kernel
        self.in_proj = nn.Linear(d, width)
        self.short_conv = nn.Conv1d(width, width, taps, groups=width, padding=taps - 1)
        self.implicit_filter = ImplicitFilter(
            (own.order - 1) * d, own.max_length, own.filter_order, own.emb_dim, own.num_inner_mlps,
            sine_freq=own.sine_freq, slow=own.slow_decay_pct, fast=own.fast_decay_pct, target=own.decay_target,
            shift=own.window_shift, learned=own.learn_positions,
        )  # fmt: skip
        self.D = nn.Parameter(torch.empty((own.order - 1) * d))
        self.out_proj = nn.Linear(d, d)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Reference initialisation: projections as in GPT-2, the short convolution as in PyTorch, D from N(0, 1)."""
        reset_normal(self.in_proj, generator)
        reset_linear(self.short_conv.weight, self.short_conv.bias, self.config.own.short_kernel, generator)
        self.implicit_filter.reset_parameters(generator)
        self.D.copy_(torch.empty_like(self.D, dtype=torch.float32).normal_(generator=generator))
        reset_normal(self.out_proj, generator, residual_scale(self.config.n_layers))

    @torch.no_grad()
    def reset_to_recall(self, generator: torch.Generator) -> None:
        """Every channel has a random key and a random value of its own: x1 writes by the key one token late, x0 reads
        by it, v and out_proj share the value. See `Mixer`.

        The last filter starts as its window, with D at zero; those before it pass everything on. d channels hold d
        numbers: over m tokens the right value stands out from noise by sqrt(d / m), and from another fact's value by
        sqrt(d / 3), where pairing each of some keys with each of some values would leave the root of their number. What
        one like key brings back has a root mean square of RECALL_READ, so that embeddings should start near 0.2; the
        weights that carry it are larger than a step of Adam.
        """
        d, n = self.config.d_model, self.config.own.order
        key, value = torch.randn(2, d, d, generator=generator) / d**0.5
        for part, weight in ((0, key), (1, key), (n, value)):
            self.in_proj.weight[part * d : (part + 1) * d] = weight
        for part in (0, 1):
            recall_taps(self.short_conv, slice(part * d, (part + 1) * d), shift=part)
        assert self.short_conv.bias is not None
        self.short_conv.weight[2 * d :] = 0.0
        self.short_conv.bias[2 * d : n * d] = 1.0 / RECALL_TAP  # further gates let all pass
        self.short_conv.bias[n * d :] = 0.0
        self.short_conv.weight[n * d :, 0, -1] = 1.0
        self.short_conv.weight *= RECALL_TAP
        self.short_conv.bias *= RECALL_TAP
        self.implicit_filter.reset_to_window()
        self.D.zero_()
        self.implicit_filter.out.weight.unflatten(0, (d, n - 1))[:, :-1] = 0.0
        self.D.unflatten(0, (d, n - 1))[:, :-1] = 1.0
        self.out_proj.weight.copy_(value.T * (RECALL_READ / (RECALL_POWER * RECALL_TAP**3)))

    @property
    def record_length(self) -> int:
        """How many earlier tokens its record holds at most."""
        return self.config.own.max_length - 1

    def context_operations(self, context: int) -> int:
        """Operations of a token as the last of `context` ones, beside products with parameters: the long convolutions
        as they are defined, lag by lag. A transform over a whole text takes fewer."""
        own = self.config.own
        return 2 * (own.order - 1) * self.config.d_model * min(context, own.max_length)

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        d, own = self.config.d_model, self.config.own
        return {
            "conv": torch.zeros(batch, (own.order + 1) * d, own.short_kernel - 1, dtype=dtype, device=device),
            "past_v": torch.zeros(batch, (own.order - 1) * d, 0, dtype=dtype, device=device),
            "seen": torch.zeros(batch, dtype=wide(dtype), device=device),
        }

    def site_table(self) -> list[SiteInfo]:
        d, own = self.config.d_model, self.config.own
        width = (own.order + 1) * d
        table = [
            initial_site(
                "conv_init",
                (width, own.short_kernel - 1),
                "inputs short convolutions see before the text; zero unless edited",
            ),
            SiteInfo("x_in", (width,), "gates and value before the short convolution, x0 first, v last"),
            SiteInfo(
                "conv_state", (width, own.short_kernel - 1), "inputs short convolutions after step t see, oldest first"
            ),
            SiteInfo("x0", (d,), "gate of the output"),
            *(SiteInfo(f"x{i}", (d,), f"gate number {i}, times v before a convolution") for i in range(1, own.order)),
            SiteInfo("v", (d,), "value, before any gate"),
        ]
        for i in range(own.order - 1):
            suffix = _suffix(i)
            table += [
                SiteInfo(f"filter{suffix}", (d, own.max_length), "taps by lag", wide=True, constant=True),
                SiteInfo(f"long_conv_in{suffix}", (d,), "gated value, the input of the long convolution"),
                SiteInfo(f"long_conv_out{suffix}", (d,), "output of the long convolution, with the skip D"),
            ]
        return [*table, SiteInfo("gated", (d,), "x0 times the last convolution's output, the input of out_proj")]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        d, own = self.config.d_model, self.config.own
        n_filters = own.order - 1
        projected = run.site(prefix + "x_in", self.in_proj(u))
        if state is None and need_state:
            state = self.zero_state(len(u), u.dtype, u.device)
        begin = begun(run, prefix, state, lambda: self.zero_state(len(u), u.dtype, u.device))
        projected, window = convolve(run, prefix, projected, self.short_conv, begin, need_state)
        *gates, v = projected.split(d, -1)
        gates = [run.site(f"{prefix}x{i}", gate) for i, gate in enumerate(gates)]
        v = run.site(prefix + "v", v)
        # the original's order of channels: the filters of one channel stand side by side
        filters = self.implicit_filter().unflatten(0, (d, n_filters))
        skips = self.D.unflatten(0, (d, n_filters))
        inputs: list[Tensor] = []
        for i, gate in enumerate(reversed(gates[1:])):
            suffix = _suffix(i)
            kernel = run.constant(f"{prefix}filter{suffix}", filters[:, i])
            past = None if state is None else state["past_v"][:, i * d : (i + 1) * d]
            v, y = convolve_long(run, prefix, suffix, v * gate, kernel, skips[:, i], past)
            inputs.append(v)
            v = y
        out = self.out_proj(run.site(prefix + "gated", gates[0] * v))
        if not need_state:
            return out, None
        assert state is not None and window is not None
        past, seen = extend_record(run, state["past_v"], state["seen"], inputs, own.max_length)
        return out, {"conv": window, "past_v": past, "seen": seen}


def _suffix(i: int) -> str:
    """What the sites of the i-th convolution end in: nothing for the first, then _2, _3, ..."""
    return "" if i == 0 else f"_{i + 1}"
