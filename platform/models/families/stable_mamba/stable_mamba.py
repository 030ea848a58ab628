"""Stable-Mamba: gated, compressed input; three timescales of one state-space dual; sparse attention in some layers.

    u~ = c_t sum_k softmax(w)_k sigmoid(W_k u + b_k) * u               c_t = compression of u_t and its running mean
    x, B, C sqrt(N) = silu(conv(in_proj(u~)))                          x has channels of its own for every timescale
    h_t = a_t h_{t-1} + (1 - a_t) x_t (outer) B_t,  y_j = C_t . h_t + D x_t       per head of timescale j
    a_t = sigmoid(logit(tau_j) + rho_j delta_t),  tau = 0.7, 0.9, 0.98            delta_t in (-1, 1), 0 at the start
    y = sum_j softmax(v)_j y_j;  where layer % attn_every == 0:  y += sigmoid(g) Attn(y)
    out = out_proj(2 sigmoid(kappa (theta - rms(y))) y)

The definition is ours: causal and scannable, after a description of which no exact form is published. All timescales
are heads of one SSD (Dao and Gu, arXiv 2405.21060): fast first, then medium, then slow. So of the state (B, 3E, N) as
captures and edits see it, channels 0 to E-1 are the local memory and 2E to 3E-1 the global one.
The parts are in `stable`; E = expand * d_model is the width of each timescale, of the attention and of the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.errors import UsageError
from ...access.run import Run
from ...access.states import Scanned
from ...gated_timescales import GatedTimescales
from ...kernels import ssd
from ...linear_recurrence import Recurrence, write_share
from ...mixer import LayerState, Mixer, SiteInfo, mixer
from ...model_config import ModelConfig
from ...parts.norms import wide
from ...parts.recall import RECALL_GAIN, inverse_softplus, recall_taps
from ...parts.recurrence import (
    begun,
    convolve,
    decay_site,
    next_state,
    reset_linear,
    split_linear,
    state_sites,
    trace_scan,
)
from .attention_part import SparseAttention
from .compression import bounded_gain, compression_factor, running_mean
from .gates import ensemble, gate_output
from .options import TIMESCALES, StableMambaOptions
from .timescales import logits_of, steps

_RECALL_TAU = 0.995  # decay of half of the slow heads in the recall initialisation: a factor e in 200 tokens
#: part -> how the names of its parameters begin
_PARTS = {
    "gates": ("gates.", "gate_logits"), "compression": ("compress_",), "projections": ("in_proj", "conv1d", "out_proj"),
    "timescales": ("offset_", "tau_offset", "rho_logits", "D", "timescale_logits"), "attention": ("attention.",),
    "gain": ("kappa", "theta"),
}  # fmt: skip


@mixer("stable_mamba")
class StableMambaMixer(Mixer):
    """Stable-Mamba mixer. Shapes: u (B, T, d); x, x_in (B, T, 3E); B, C (B, T, N); h (B, 3E, N); y, gated (B, T, E)."""

    config_fields: ClassVar[frozenset[str]] = frozenset({"head_dim", "dt_rank"})
    keep_float32: ClassVar[frozenset[str]] = frozenset({"tau_offset", "rho_logits", "D"})
    options_class = StableMambaOptions
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nano": {"state_size": 16, "head_dim": 16, "expand": 1},
        **{size: {"state_size": 64, "head_dim": 32, "expand": 1} for size in ("tiny", "1m", "3m")},
        # fewer layers than Mamba's of the same width, for as many parameters
        **{
            size: {"state_size": 128, "head_dim": 64, "expand": 1, "n_layers": n_layers}
            for n_layers, sizes in (
                (18, ("130m",)),
                (36, ("370m", "780m", "790m")),
                (37, ("1.3b", "1.4b")),
                (49, ("2.7b", "2.8b")),
            )
            for size in sizes
        },
    }

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """The width of a timescale must divide into heads."""
        if config.inner_size % config.head_dim:
            raise UsageError(
                f"model config: expand * d_model = {config.inner_size} is not a multiple of head_dim {config.head_dim}"
            )

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        own: StableMambaOptions = config.own
        d, E, H, k = config.d_model, config.inner_size, len(TIMESCALES) * config.n_heads, config.conv_kernel
        hidden = own.compression_hidden or max(1, d // 4)
        self.n_state_channels = len(TIMESCALES) * E
        self.conv_width = self.n_state_channels + 2 * config.state_size
        self.gates = nn.Linear(d, own.n_gates * d, bias=True)
        self.gate_logits = nn.Parameter(torch.empty(own.n_gates))
        self.compress_in = nn.Linear(2 * d, hidden, bias=True)
        self.compress_out = nn.Linear(hidden, 1, bias=True)
        self.in_proj = nn.Linear(d, self.conv_width, bias=config.use_bias)
        self.conv1d = nn.Conv1d(
            self.conv_width, self.conv_width, k, groups=self.conv_width, padding=k - 1, bias=config.use_conv_bias
        )
        self.offset_in = nn.Linear(d, int(config.dt_rank), bias=False)
        self.offset_out = nn.Linear(int(config.dt_rank), H, bias=False)
        self.tau_offset = nn.Parameter(torch.empty(H))
        self.rho_logits = nn.Parameter(torch.empty(len(TIMESCALES)))
        self.D = nn.Parameter(torch.empty(H))
        self.timescale_logits = nn.Parameter(torch.empty(len(TIMESCALES)))
        critical = own.attn_every > 0 and layer % own.attn_every == 0
        self.attention = (
            SparseAttention(E, config.head_dim, own.sparsity, config.norm_eps, config.use_bias) if critical else None
        )
        self.kappa = nn.Parameter(torch.empty(1))
        self.theta = nn.Parameter(torch.empty(1))
        self.out_proj = nn.Linear(E, d, bias=config.use_bias)

    @property
    def _gated_share(self) -> float:
        """What gates and compression leave of a typical input at the start, when all their scores are near zero."""
        return 0.5 * (1.0 + self.config.own.c_min) / 2

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Reference initialisation: decays tau exactly, equal weights, gates and compression near their middle.

        Linear layers as PyTorch's default, in_proj larger by what the gates take away, out_proj scaled by 1/sqrt(L).
        The convolution starts near the identity and without bias: nothing here multiplies its output by a gate of mean
        zero, as in Mamba, and what a bias adds to every token alike would make all tokens look alike to later layers.
        """
        c = self.config
        for layer in (self.gates, self.compress_in, self.compress_out, self.in_proj, self.offset_in):
            reset_linear(layer.weight, layer.bias, layer.in_features, generator)
        self.in_proj.weight /= self._gated_share
        reset_linear(self.conv1d.weight, None, c.conv_kernel, generator)
        self.conv1d.weight[..., -1] += 1.0
        if self.conv1d.bias is not None:
            self.conv1d.bias.zero_()
        for parameter in (
            self.gates.bias, self.gate_logits, self.compress_in.bias, self.compress_out.bias, self.offset_out.weight,
            self.tau_offset, self.rho_logits, self.timescale_logits,
        ):  # fmt: skip
            parameter.zero_()
        self.D.fill_(1.0)
        if self.attention is not None:
            self.attention.reset_parameters(generator)
        self.kappa.fill_(inverse_softplus(1.0))
        self.theta.fill_(1.0)
        reset_linear(self.out_proj.weight, None, c.inner_size, generator)
        self.out_proj.weight /= c.n_layers**0.5
        if self.out_proj.bias is not None:
            self.out_proj.bias.zero_()

    @torch.no_grad()
    def reset_to_recall(self, generator: torch.Generator) -> None:
        """B and C share a projection, B shifted by one token; half of the slow heads forget over 200 tokens instead of
        50, all other decays stay tau. See `Mixer`."""
        c = self.config
        channels, N, d = self.n_state_channels, c.state_size, c.d_model
        key = torch.randn(N, d, generator=generator) * (RECALL_GAIN / self._gated_share / d**0.5)
        B, C = slice(channels, channels + N), slice(channels + N, None)
        self.in_proj.weight[B] = self.in_proj.weight[C] = key
        recall_taps(self.conv1d, B, shift=1)
        recall_taps(self.conv1d, C, shift=0)
        slow, target = logits_of([c.own.tau[-1], max(c.own.tau[-1], _RECALL_TAU)], 1, self.tau_offset).unbind()
        self.tau_offset[-c.n_heads : -c.n_heads // 2 or None] = target - slow

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        D = self.D.detach().to(dtype)
        outputs = tuple(f"ssm_{name}" for name in TIMESCALES)
        return (Recurrence(-torch.ones_like(D)[:, None], D, outputs=outputs, averaging=True),)

    def gated_timescales(self) -> tuple[GatedTimescales, ...]:
        own: StableMambaOptions = self.config.own
        gates, read_outs = (f"gate_{k}" for k in range(own.n_gates)), (f"ssm_{name}" for name in TIMESCALES)
        attention = None if self.attention is None else "sparse_attn"
        return (GatedTimescales(tuple(gates), TIMESCALES, tuple(read_outs), own.tau, _PARTS, attention),)

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        c = self.config
        heads, kept = len(TIMESCALES) * c.n_heads, wide(dtype)
        attention = {} if self.attention is None else self.attention.zero_state(batch, dtype, device)
        return attention | {
            "conv": torch.zeros(batch, self.conv_width, c.conv_kernel - 1, dtype=dtype, device=device),
            "h": torch.zeros(batch, heads, c.head_dim, c.state_size, dtype=kept, device=device),
            "mean": torch.zeros(batch, c.d_model, dtype=kept, device=device),
        }

    def site_table(self) -> list[SiteInfo]:
        c, channels = self.config, self.n_state_channels
        d, E, N, J, n_gates = c.d_model, c.inner_size, c.state_size, len(TIMESCALES), c.own.n_gates
        ranges = ", ".join(f"{i * E} to {(i + 1) * E - 1} {name}" for i, name in enumerate(TIMESCALES))
        table = [
            *(SiteInfo(f"gate_{k}", (d,), f"gate {k}: sigmoid of its scores times u") for k in range(n_gates)),
            SiteInfo("gate_weights", (n_gates,), "weights of the gates, which add up to 1", constant=True),
            SiteInfo("gate", (d,), "the gates' outputs mixed by their weights"),
            SiteInfo("running_mean", (d,), "causal mean of u as the compression predictor sees it"),
            SiteInfo("compression", (1,), "factor c_t on the gated input, in [c_min, 1]"),
            SiteInfo("x_in", (channels,), f"values before the convolution; channels {ranges}"),
            SiteInfo("x", (channels,), f"values after convolution and silu; channels {ranges}"),
            SiteInfo("delta", (J * c.n_heads,), "step size -log a_t of each head: decay exp(-delta), write 1 - decay"),
            SiteInfo("B", (N,), "write vector, shared by all heads"),
            SiteInfo("C", (N,), "read vector over sqrt(N), shared by all heads"),
            decay_site(J * c.n_heads),
            *state_sites(channels, N, self.conv_width, c.conv_kernel),
            *(SiteInfo(f"ssm_{name}", (E,), f"read-out of the {name} timescale with D skip") for name in TIMESCALES),
            SiteInfo("timescale_weights", (J,), "weights of fast, medium and slow, which add up to 1", constant=True),
            SiteInfo("y", (E,), "read-outs mixed by the timescale weights"),
        ]
        return [
            *table,
            *([] if self.attention is None else self.attention.site_table()),
            SiteInfo("gain", (1,), "stable compression: bounded gain on the output, in (0, 2)"),
            SiteInfo("gated", (E,), "y with attention and gain, the input of out_proj"),
        ]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        begin = begun(run, prefix, state, lambda: self.zero_state(len(u), u.dtype, u.device))
        before: LayerState = {} if begin is None else begin
        after: LayerState = {}
        gated = self._gate(u, run, prefix)
        gated = self._compress(u, gated, run, prefix, before, after)
        y = self._recur(gated, run, prefix, before, after, need_state)
        if self.attention is not None:
            y, grown = self.attention(y, run, prefix, state, need_state)
            after |= grown
        gain = run.site(prefix + "gain", bounded_gain(y, F.softplus(self.kappa), self.theta).to(y.dtype))
        out = self.out_proj(run.site(prefix + "gated", y * gain))
        return out, after if need_state else None

    def _gate(self, u: Tensor, run: Run, prefix: str) -> Tensor:
        n_gates, d = self.config.own.n_gates, self.config.d_model
        scores = split_linear(u, self.gates, [d] * n_gates)
        outputs = [run.site(f"{prefix}gate_{k}", gate_output(s, u)) for k, s in enumerate(scores)]
        weights = run.constant(prefix + "gate_weights", torch.softmax(self.gate_logits, 0))
        return run.site(prefix + "gate", ensemble(outputs, weights))

    def _compress(
        self, u: Tensor, gated: Tensor, run: Run, prefix: str, before: LayerState, after: LayerState
    ) -> Tensor:
        own: StableMambaOptions = self.config.own
        mean, after["mean"] = running_mean(u, own.mean_decay, before.get("mean"), run.reset, run.keep)
        mean = run.site(prefix + "running_mean", mean)
        scores = self.compress_out(F.silu(self.compress_in(torch.cat([u, mean], -1))))
        return gated * run.site(prefix + "compression", compression_factor(scores, own.c_min))

    def _recur(
        self, v: Tensor, run: Run, prefix: str, before: LayerState, after: LayerState, need_state: bool
    ) -> Tensor:
        """y (B, T, E) of the gated and compressed input v (B, T, d), with the new state and window in `after`."""
        c, channels = self.config, self.n_state_channels
        N, heads, dtype = c.state_size, (len(TIMESCALES) * c.n_heads, c.head_dim), wide(v.dtype)
        xBC = self.in_proj(v)
        if run.active(prefix + "x_in"):
            xBC = torch.cat([run.site(prefix + "x_in", xBC[..., :channels].contiguous()), xBC[..., channels:]], -1)
        xBC, window = convolve(run, prefix, xBC, self.conv1d, before, need_state)
        x, B, C = (part.contiguous() for part in F.silu(xBC).split([channels, N, N], -1))
        x = run.site(prefix + "x", x)
        delta = run.site(prefix + "delta", self._steps(v).to(v.dtype)).to(dtype)
        B, C = run.site(prefix + "B", B)[:, :, None], run.site(prefix + "C", C * N**-0.5)[:, :, None]
        values = x.unflatten(-1, heads)
        written = values * write_share(delta)[..., None]
        if run.keep is not None:  # a step of 0 at padding leaves the state as it is
            delta = delta * run.keep[..., None]
        A = run.constant(prefix + "A", -torch.ones(heads[0], dtype=dtype, device=v.device))

        def scan(start: int, stop: int, driven: bool, h: Tensor | None, states_at: list[int] | None) -> Scanned:
            part = slice(start, stop)
            inputs = written[:, part] if driven else torch.zeros_like(written[:, part])
            y, final, *states = ssd(
                inputs, delta[:, part], A, B[:, part], C[:, part],
                initial_state=None if h is None else h.unflatten(1, heads),
                reset=None if run.reset is None else run.reset[:, part],
                return_state=True, states_at=states_at or None,
            )  # fmt: skip
            if driven:
                y = y + self.D[:, None] * values[:, part]
            at = states[0].flatten(2, 3) if states else final.flatten(1, 2)[:, None]
            return Scanned(y.flatten(2).to(v.dtype), final.flatten(1, 2), at)

        def read(t: int, h: Tensor) -> Tensor:
            return torch.einsum("ben,bn->be", h, C[:, t, 0].to(h.dtype))

        def written_at(columns: list[int]) -> Tensor:
            entering = delta[:, columns, :, None] * written[:, columns]
            return entering.flatten(2)[..., None] * B[:, columns].to(dtype)

        h0 = before["h"].flatten(1, 2) if before else None
        done = trace_scan(run, prefix, v.shape[1], h0, scan, read, written_at)
        after |= next_state(need_state, conv=window, h=done.final.unflatten(1, heads)) or {}
        parts = [part.contiguous() for part in done.y.split(c.inner_size, -1)]
        parts = [run.site(f"{prefix}ssm_{name}", part) for name, part in zip(TIMESCALES, parts, strict=True)]
        weights = run.constant(prefix + "timescale_weights", torch.softmax(self.timescale_logits, 0))
        return run.site(prefix + "y", ensemble(parts, weights))

    def _steps(self, v: Tensor) -> Tensor:
        """Delta_t (B, T, H) of the input v (B, T, d), in float32 or wider."""
        c, dtype = self.config, wide(v.dtype)
        start = logits_of(c.own.tau, c.n_heads, self.tau_offset.to(dtype))
        rho = (c.own.rho_max * torch.sigmoid(self.rho_logits.to(dtype))).repeat_interleave(c.n_heads)
        offset = rho * torch.tanh(self.offset_out(self.offset_in(v)).to(dtype))
        return steps(start, self.tau_offset.to(dtype) + offset)
