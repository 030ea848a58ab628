"""Mamba-2 (SSD), the state-space-duality mixer of Dao and Gu (arXiv 2405.21060), with parameter names of transformers.

    z, (x, B, C), dt = in_proj(u);  x, B, C = silu(conv(x, B, C));  Delta = softplus(dt + dt_bias), one per head
    S_t = exp(Delta_t A) S_{t-1} + Delta_t x_t (outer) B_t;  y_t = S_t C_t + D x_t
    out = out_proj(RMSNorm(y * silu(z)))

One decay per head; B and C are shared by the heads of a group. The gate comes before the norm, which is taken per
group. The state (B, H, P, N) is shown to captures and edits as (B, E, N) with E = H * P.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.errors import InputError, UsageError
from ...access.run import Run
from ...access.states import Scanned
from ...config_checks import WIDTH, accepted
from ...kernels import compiled_steps, ssd
from ...linear_recurrence import ConvolutionAndGate, Recurrence
from ...mixer import LayerState, Mixer, SiteInfo, mixer
from ...model_config import ModelConfig
from ...parts.norms import RMSNorm, wide
from ...parts.recall import RECALL_GAIN, RECALL_STEP, inverse_softplus, recall_taps
from ...parts.recurrence import (
    begun,
    convolve,
    decay_site,
    draw_dt_bias,
    next_state,
    reset_linear,
    split_linear,
    state_sites,
    trace_scan,
)  # fmt: skip


@mixer("mamba2")
class Mamba2Mixer(Mixer):
    """SSD mixer. Shapes: u (B, T, d); x, gate, y (B, T, E); delta (B, T, H); B, C (B, T, G N); h (B, E, N)."""

    no_decay: ClassVar[frozenset[str]] = frozenset({"A_log", "D", "dt_bias"})
    keep_float32: ClassVar[frozenset[str]] = frozenset({"A_log", "D", "dt_bias"})
    config_fields: ClassVar[frozenset[str]] = frozenset({"head_dim", "n_groups", "chunk_size", "dt_limit"})
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nano": {"state_size": 16, "head_dim": 16},
        **{size: {"state_size": 64, "head_dim": 32} for size in ("tiny", "1m", "3m")},
        **{size: {"state_size": 128} for size in ("130m", "370m", "780m", "790m", "1.3b", "1.4b", "2.7b", "2.8b")},
    }
    hf_class = "Mamba2ForCausalLM"
    hf_names: ClassVar[Mapping[str, str]] = {n: n for n in ("head_dim", "n_groups", "chunk_size")}
    hf_defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 32768, "d_model": 4096, "n_layers": 64, "state_size": 128, "head_dim": 64, "n_groups": 8,
        "chunk_size": 256, "tie_embeddings": False, "eos_token_id": 2, "pad_token_id": 1,
    }  # fmt: skip

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """The width must divide into heads, and the heads into groups."""
        if config.inner_size % config.head_dim:
            raise UsageError(
                f"model config: expand * d_model = {config.inner_size} is not a multiple of head_dim {config.head_dim}"
            )
        if config.n_heads % config.n_groups:
            raise UsageError(f"model config: {config.n_heads} heads do not divide into {config.n_groups} groups")

    @classmethod
    def check_hf(cls, content: Mapping[str, Any], config: ModelConfig, source: str) -> None:
        """transformers' heads have a number of their own, 128 unless given, which must fill the width."""
        heads = accepted(WIDTH, "num_heads", content.get("num_heads", 128), source)
        if heads != config.n_heads:
            raise InputError(
                f"{source}: num_heads {heads} times head_dim {config.head_dim} is not "
                f"expand * hidden_size = {config.inner_size}"
            )

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        d, E, H, k = config.d_model, config.inner_size, config.n_heads, config.conv_kernel
        self.conv_width = E + 2 * config.n_groups * config.state_size
        self.in_proj = nn.Linear(d, E + self.conv_width + H, bias=config.use_bias)
        self.conv1d = nn.Conv1d(
            self.conv_width, self.conv_width, k, groups=self.conv_width, padding=k - 1, bias=config.use_conv_bias
        )
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.A_log = nn.Parameter(torch.empty(H))
        self.D = nn.Parameter(torch.empty(H))
        self.norm = RMSNorm(E, config.norm_eps, config.n_groups)
        self.out_proj = nn.Linear(E, d, bias=config.use_bias)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Reference initialisation: A = -U(1, 16) per head, D = 1, Delta log-uniform, out_proj scaled by 1/sqrt(L)."""
        c = self.config
        reset_linear(self.in_proj.weight, self.in_proj.bias, c.d_model, generator)
        reset_linear(self.conv1d.weight, self.conv1d.bias, c.conv_kernel, generator)
        self.dt_bias.copy_(draw_dt_bias(c.n_heads, c.dt_min, c.dt_max, c.dt_floor, generator))
        self.A_log.copy_((1.0 + 15.0 * torch.rand(c.n_heads, generator=generator)).log())
        self.D.fill_(1.0)
        self.norm.weight.fill_(1.0)
        reset_linear(self.out_proj.weight, None, c.inner_size, generator)
        self.out_proj.weight /= c.n_layers**0.5
        if self.out_proj.bias is not None:
            self.out_proj.bias.zero_()

    @torch.no_grad()
    def reset_to_recall(self, generator: torch.Generator) -> None:
        """B and C share a projection, B shifted by one token; half of the heads forget over 50 tokens. See `Mixer`."""
        c = self.config
        E, N, G, d = c.inner_size, c.state_size, c.n_groups, c.d_model
        key = torch.randn(G * N, d, generator=generator) * (RECALL_GAIN / d**0.5)
        B, C = slice(2 * E, 2 * E + G * N), slice(2 * E + G * N, 2 * E + 2 * G * N)
        self.in_proj.weight[B] = self.in_proj.weight[C] = key
        recall_taps(self.conv1d, slice(E, E + G * N), shift=1)
        recall_taps(self.conv1d, slice(E + G * N, None), shift=0)
        slow = slice(0, c.n_heads // 2)
        self.A_log[slow] = 0.0
        self.dt_bias[slow] = inverse_softplus(RECALL_STEP)

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        A, D = -torch.exp(self.A_log.detach().to(dtype))[:, None], self.D.detach().to(dtype)
        around = ConvolutionAndGate.of(self.conv1d, self.config.inner_size)
        return (Recurrence(A, D, groups=self.config.n_groups, around=around),)

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        c = self.config
        return {
            "conv": torch.zeros(batch, self.conv_width, c.conv_kernel - 1, dtype=dtype, device=device),
            "h": torch.zeros(batch, c.n_heads, c.head_dim, c.state_size, dtype=wide(dtype), device=device),
        }

    def step(self, u: Tensor, state: LayerState, overwrite: bool = False) -> tuple[Tensor, LayerState] | None:
        """See `Mixer`: half of the time of a decode step of a small model is the way from one operation to the next."""
        c = self.config
        E, G, N = c.inner_size, c.n_groups, c.state_size
        loops = compiled_steps(u, N)
        if loops is None or c.dt_limit != (0.0, float("inf")):
            return None
        gate, xBC, dt = self.project(u)
        xBC, window = loops.conv_step_numba(xBC, self.conv1d.weight[:, 0], self.conv1d.bias, state["conv"])
        x, B, C = (part.contiguous() for part in F.silu(xBC).split([E, G * N, G * N], -1))
        delta = F.softplus(dt + self.dt_bias)
        heads, groups = (c.n_heads, c.head_dim), (G, N)
        y, h = loops.ssd_step_numba(
            x.unflatten(-1, heads), delta, -torch.exp(self.A_log), B.unflatten(-1, groups), C.unflatten(-1, groups),
            self.D, state["h"], overwrite,
        )  # fmt: skip
        return self.out_proj(self.gated(y.flatten(2), gate)), {"conv": window, "h": h}

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gate branch (B, T, E), what enters the convolution (B, T, E + 2 G N) and dt (B, T, H), of u (B, T, d)."""
        gate, xBC, dt = split_linear(u, self.in_proj, [self.config.inner_size, self.conv_width, self.config.n_heads])
        return gate, xBC, dt

    def gated(self, y: Tensor, gate: Tensor) -> Tensor:
        """The input of out_proj (B, T, E)."""
        return self.norm(y * F.silu(gate))

    def site_table(self) -> list[SiteInfo]:
        config = self.config
        E, N, GN = config.inner_size, config.state_size, config.n_groups * config.state_size
        return [
            SiteInfo("gate", (E,), "gate branch z, before silu"),
            SiteInfo("x_in", (E,), "SSM branch before the convolution"),
            SiteInfo("x", (E,), "SSM branch after convolution and silu, channel e = head * P + p"),
            SiteInfo("delta", (config.n_heads,), "step size Delta of each head, after softplus"),
            SiteInfo("B", (GN,), "write vectors, N per group"),
            SiteInfo("C", (GN,), "read vectors, N per group"),
            decay_site(config.n_heads),
            *state_sites(E, N, E + 2 * GN, config.conv_kernel),
            SiteInfo("y", (E,), "scan output with D skip"),
            SiteInfo("gated", (E,), "RMSNorm(y * silu(z)), the input of out_proj"),
        ]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        c = self.config
        E, H, P, G, N = c.inner_size, c.n_heads, c.head_dim, c.n_groups, c.state_size
        rows, width = u.shape[:2]
        state = begun(run, prefix, state, lambda: self.zero_state(rows, u.dtype, u.device))
        gate, xBC, dt = self.project(u)
        gate = run.site(prefix + "gate", gate)
        if run.active(prefix + "x_in"):
            xBC = torch.cat([run.site(prefix + "x_in", xBC[..., :E]), xBC[..., E:]], -1)
        xBC, window = convolve(run, prefix, xBC, self.conv1d, state, need_state)
        x, B, C = F.silu(xBC).split([E, G * N, G * N], dim=-1)
        x = run.site(prefix + "x", x.contiguous())
        delta = F.softplus(dt + self.dt_bias).to(dt.dtype)  # summed in float32, where the bias is
        if c.dt_limit != (0.0, float("inf")):
            delta = delta.clamp(*c.dt_limit)
        delta = run.site(prefix + "delta", delta)
        B = run.site(prefix + "B", B.contiguous())
        C = run.site(prefix + "C", C.contiguous())
        if run.keep is not None:  # Delta = 0 at padding leaves the state as it is
            delta = delta * run.keep[..., None]
        A = run.constant(prefix + "A", -torch.exp(self.A_log.to(wide(self.A_log.dtype))))
        D = self.D.to(A.dtype)
        x_heads, B_groups, C_groups = x.unflatten(-1, (H, P)), B.unflatten(-1, (G, N)), C.unflatten(-1, (G, N))

        def scan(start: int, stop: int, driven: bool, h: Tensor | None, states_at: list[int] | None) -> Scanned:
            part = slice(start, stop)
            inputs = x_heads[:, part] if driven else torch.zeros_like(x_heads[:, part])
            y, final, *states = ssd(
                inputs, delta[:, part], A, B_groups[:, part], C_groups[:, part], D if driven else None,
                initial_state=None if h is None else h.unflatten(1, (H, P)),
                reset=None if run.reset is None else run.reset[:, part],
                return_state=True, states_at=states_at or None,
            )  # fmt: skip
            return Scanned(
                y.flatten(2), final.flatten(1, 2), states[0].flatten(2, 3) if states else final.flatten(1, 2)[:, None]
            )

        def read(t: int, h: Tensor) -> Tensor:
            by_group = h.view(rows, G, E // G, N)
            return torch.einsum("bgen,bgn->bge", by_group, C_groups[:, t].to(h.dtype)).flatten(1)

        def written(columns: list[int]) -> Tensor:
            entering = delta[:, columns, :, None].to(A.dtype) * x_heads[:, columns].to(A.dtype)
            by_group = entering.flatten(2).unflatten(2, (G, E // G))[..., None]
            return (by_group * B_groups[:, columns, :, None].to(A.dtype)).flatten(2, 3)

        h0 = None if state is None else state["h"].flatten(1, 2)
        done = trace_scan(run, prefix, width, h0, scan, read, written)
        y = run.site(prefix + "y", done.y)
        gated = run.site(prefix + "gated", self.gated(y, gate))
        return self.out_proj(gated), next_state(need_state, conv=window, h=done.final.unflatten(1, (H, P)))
