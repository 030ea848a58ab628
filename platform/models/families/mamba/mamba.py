"""Mamba (S6), the selective state-space mixer of Gu and Dao (arXiv 2312.00752), with parameter names of transformers.

    x, z = in_proj(u);  x = silu(conv(x));  dt, B, C = x_proj(x);  Delta = softplus(dt_proj(dt))
    h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t x_t;  y_t = C_t . h_t + D x_t;  out = out_proj(y * silu(z))

The write uses Euler's rule for B, as the reference code does. The scan runs in float32 (float64 for float64 models).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...access.run import Run
from ...access.states import Scanned
from ...kernels import compiled_steps, selective_scan
from ...linear_recurrence import ConvolutionAndGate, Recurrence
from ...mixer import LayerState, Mixer, SiteInfo, mixer
from ...model_config import ModelConfig
from ...parts.norms import wide
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


class SelectiveScan(NamedTuple):
    """What a recurrence computes its states and read-outs from: x, delta (B, T, E); A (E, N); B, C (B, T, N); D (E) or
    None; start (B, E, N), the state before, None for zeros; reset (B, T) or None."""

    x: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    start: Tensor | None
    reset: Tensor | None

    def scan(self, start: int, stop: int, driven: bool, h: Tensor | None, states_at: list[int] | None) -> Scanned:
        """See `SegmentScan`."""
        part = slice(start, stop)
        inputs = self.x[:, part] if driven else torch.zeros_like(self.x[:, part])
        y, final, *states = selective_scan(
            inputs, self.delta[:, part], self.A, self.B[:, part], self.C[:, part], self.D if driven else None,
            initial_state=h, reset=None if self.reset is None else self.reset[:, part],
            return_state=True, states_at=states_at or None,
        )  # fmt: skip
        return Scanned(y, final, states[0] if states else final[:, None])

    def read(self, t: int, h: Tensor) -> Tensor:
        """The read-out (B, E) of a state h (B, E, N) at step t."""
        return torch.einsum("ben,bn->be", h, self.C[:, t].to(h.dtype))

    def written(self, columns: list[int]) -> Tensor:
        """What the tokens at `columns` add to the state, (B, P, E, N)."""
        dtype = self.A.dtype
        entering = self.delta[:, columns].to(dtype) * self.x[:, columns].to(dtype)
        return entering[..., None] * self.B[:, columns].to(dtype)[:, :, None]


@mixer("mamba")
class MambaMixer(Mixer):
    """S6 mixer. Shapes: u (B, T, d); x, gate, delta, y (B, T, E); B, C (B, T, N); h (B, E, N)."""

    no_decay: ClassVar[frozenset[str]] = frozenset({"A_log", "D"})
    keep_float32: ClassVar[frozenset[str]] = frozenset({"A_log", "D"})
    config_fields: ClassVar[frozenset[str]] = frozenset({"dt_rank"})
    hf_class = "MambaForCausalLM"
    hf_names: ClassVar[Mapping[str, str]] = {"dt_rank": "time_step_rank"}
    hf_inner = "intermediate_size"
    hf_defaults: ClassVar[Mapping[str, Any]] = {"vocab_size": 50280, "d_model": 768, "n_layers": 32, "state_size": 16}

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        d, E, N, R, k = config.d_model, config.inner_size, config.state_size, int(config.dt_rank), config.conv_kernel
        self.in_proj = nn.Linear(d, 2 * E, bias=config.use_bias)
        self.conv1d = nn.Conv1d(E, E, k, groups=E, padding=k - 1, bias=config.use_conv_bias)
        self.x_proj = nn.Linear(E, R + 2 * N, bias=False)
        self.dt_proj = nn.Linear(R, E, bias=True)
        self.A_log = nn.Parameter(torch.empty(E, N))
        self.D = nn.Parameter(torch.empty(E))
        self.out_proj = nn.Linear(E, d, bias=config.use_bias)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Reference initialisation: A = -(1..N) per channel, D = 1, Delta log-uniform, out_proj scaled by 1/sqrt(L)."""
        c = self.config
        reset_linear(self.in_proj.weight, self.in_proj.bias, c.d_model, generator)
        reset_linear(self.conv1d.weight, self.conv1d.bias, c.conv_kernel, generator)
        reset_linear(self.x_proj.weight, None, c.inner_size, generator)
        reset_linear(self.dt_proj.weight, None, int(c.dt_rank), generator)
        self.dt_proj.bias.copy_(draw_dt_bias(c.inner_size, c.dt_min, c.dt_max, c.dt_floor, generator))
        self.A_log.copy_(torch.arange(1, c.state_size + 1).log().expand(c.inner_size, -1))
        self.D.fill_(1.0)
        reset_linear(self.out_proj.weight, None, c.inner_size, generator)
        self.out_proj.weight /= c.n_layers**0.5
        if self.out_proj.bias is not None:
            self.out_proj.bias.zero_()

    @torch.no_grad()
    def reset_to_recall(self, generator: torch.Generator) -> None:
        """Twin halves of the channels, the second shifted by one token: C sees the first, B the second. See `Mixer`."""
        c = self.config
        d, half, N, R = c.d_model, c.inner_size // 2, c.state_size, int(c.dt_rank)
        twins = torch.randn(half, d, generator=generator) * (RECALL_GAIN / d**0.5)
        first, second = slice(0, half), slice(half, 2 * half)
        self.in_proj.weight[first] = self.in_proj.weight[second] = twins
        recall_taps(self.conv1d, first, shift=0)
        recall_taps(self.conv1d, second, shift=1)
        key = torch.randn(N, half, generator=generator) * (1.5 / half**0.5)
        self.x_proj.weight[R:] = 0.0
        self.x_proj.weight[R : R + N, second] = key
        self.x_proj.weight[R + N :, first] = key
        self.A_log.zero_()
        self.dt_proj.bias.fill_(inverse_softplus(RECALL_STEP))

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        A, D = -torch.exp(self.A_log.detach().to(dtype)), self.D.detach().to(dtype)
        return (Recurrence(A, D, around=ConvolutionAndGate.of(self.conv1d, len(D))),)

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        c = self.config
        return {
            "conv": torch.zeros(batch, c.inner_size, c.conv_kernel - 1, dtype=dtype, device=device),
            "h": torch.zeros(batch, c.inner_size, c.state_size, dtype=wide(dtype), device=device),
        }

    def time_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What x (B, T, E) decides at each step: dt (B, T, R), the input of dt_proj, and B, C (B, T, N), contiguous.

        Relatives of Mamba norm them here."""
        c = self.config
        dt, B, C = self.x_proj(x).split([int(c.dt_rank), c.state_size, c.state_size], dim=-1)
        return dt, B.contiguous(), C.contiguous()

    def step(self, u: Tensor, state: LayerState, overwrite: bool = False) -> tuple[Tensor, LayerState] | None:
        """See `Mixer`: half of the time of a decode step of a small model is the way from one operation to the next."""
        c = self.config
        loops = compiled_steps(u, c.state_size)
        if loops is None:
            return None
        x, gate = split_linear(u, self.in_proj, [c.inner_size, c.inner_size])
        x, window = loops.conv_step_numba(x, self.conv1d.weight[:, 0], self.conv1d.bias, state["conv"])
        x = F.silu(x)
        dt, B, C = self.time_inputs(x)
        delta = F.softplus(self.dt_proj(dt))
        y, h = loops.scan_step_numba(x, delta, -torch.exp(self.A_log), B, C, self.D, state["h"], overwrite)
        return self.out_proj(y * F.silu(gate)), {"conv": window, "h": h}

    def site_table(self) -> list[SiteInfo]:
        config = self.config
        E, N = config.inner_size, config.state_size
        return [
            SiteInfo("x_in", (E,), "SSM branch before the convolution"),
            SiteInfo("gate", (E,), "gate branch z, before silu"),
            SiteInfo("x", (E,), "SSM branch after convolution and silu"),
            SiteInfo("delta", (E,), "step size Delta, after softplus; sets decay and write together"),
            SiteInfo("B", (N,), "write vector, shared by all channels"),
            SiteInfo("C", (N,), "read vector, shared by all channels"),
            decay_site(E, N),
            *state_sites(E, N, E, config.conv_kernel),
            SiteInfo("y", (E,), "scan output with D skip"),
            SiteInfo("gated", (E,), "y * silu(z), the input of out_proj"),
        ]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        c = self.config
        state = begun(run, prefix, state, lambda: MambaMixer.zero_state(self, len(u), u.dtype, u.device))
        x, gate = split_linear(u, self.in_proj, [c.inner_size, c.inner_size])
        x = run.site(prefix + "x_in", x)
        gate = run.site(prefix + "gate", gate)
        x, window = convolve(run, prefix, x, self.conv1d, state, need_state)
        x = run.site(prefix + "x", F.silu(x))
        dt, B, C = self.time_inputs(x)
        delta = run.site(prefix + "delta", F.softplus(self.dt_proj(dt)))
        B = run.site(prefix + "B", B)
        C = run.site(prefix + "C", C)
        if run.keep is not None:  # Delta = 0 at padding leaves the state as it is
            delta = delta * run.keep[..., None]
        A = run.constant(prefix + "A", -torch.exp(self.A_log.to(wide(self.A_log.dtype))))
        D = self.D.to(A.dtype)
        h0 = None if state is None else state["h"]
        y, h = self.recur(SelectiveScan(x, delta, A, B, C, D, h0, run.reset), u, run, prefix)
        y = run.site(prefix + "y", y)
        gated = run.site(prefix + "gated", y * F.silu(gate))
        return self.out_proj(gated), next_state(need_state, conv=window, h=h)

    def recur(self, recurrence: SelectiveScan, u: Tensor, run: Run, prefix: str) -> tuple[Tensor, Tensor]:
        """y (B, T, E) with skip and the state after the last token; relatives read more than their own state here."""
        scan, start = recurrence.scan, recurrence.start
        done = trace_scan(run, prefix, u.shape[1], start, scan, recurrence.read, recurrence.written)
        return done.y, done.final
