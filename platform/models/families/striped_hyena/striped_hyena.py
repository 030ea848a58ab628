"""StripedHyena: Hyena layers whose long filter is a recurrence, alternating with layers of rotary attention.

    Hyena:      x2, x1, v = short_conv(projections(u));  y = filter * (x1 v) + D x1 v;  out = out_filter_dense(x2 y)
    attention:  grouped queries, causal, rotary positions; no biases      (`attention`)
    both:       residual += mixer(RMSNorm(residual));  residual += gated_mlp(RMSNorm(residual))

After togethercomputer/stripedhyena and Poli et al., arXiv 2302.10866 (Hyena). The filter is modal (`modal`): it decodes
with a state of fixed size, (d, 2 S) real numbers, and edits of that state act as those of Mamba's. What differs from
the original, without changing the function: poles are stored as decay and angle, and x2, x1, v stand in three parts
instead of interleaved by head; `striped_hyena_format` translates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....core.errors import UsageError
from ...access.run import Run
from ...access.states import Scanned
from ...linear_recurrence import Recurrence
from ...mixer import LATER, LayerState, Mixer, Options, SiteInfo, mixer
from ...model_config import ModelConfig
from ...parts.attention import Records, recorded_attention
from ...parts.feed_forward import FeedForward, GatedMlp, residual_scale
from ...parts.norms import RMSNorm, RootEpsNorm, wide
from ...parts.recall import RECALL_GAIN
from ...parts.recurrence import begun, convolve, next_state, reset_linear, state_sites, trace_scan
from ..hyena.modal import ModalFilter, impulse_response, modal_scan, read_out

# The recall start is made for embeddings of standard deviation 0.2 (`embedding_std`): at 0.02, what the other layers
# and the first steps of Adam add is louder than the tokens, and the start is lost before it is used.
RECALL_WRITE = 0.2  # the token before, written to the residual stream, is as loud as the token
RECALL_READ = 0.15  # of what out_proj would copy; more would drown the tokens for the next pair of layers
RECALL_REACH = 256.0  # tokens over which keys are found by their content


def _shift(d: int) -> int:
    """By how many channels the token before is moved; not half, so that moving twice is not moving back."""
    return d // 3


@dataclass(frozen=True)
class StripedHyenaOptions(Options):
    """Options of StripedHyena.

    attn_layers: numbers of the blocks that attend; None is every second one, from block 1 on. n_heads: query heads;
    n_kv_heads: heads of keys and values, a divisor of it; None is as many. rope_base: of the rotary positions.
    modal_size: complex states S of each channel's filter. short_kernel: taps of the short convolution. mlp_size: hidden
    units of the gated MLP; None is 8/3 d, rounded up to a multiple of 8. eps_after_root: norms divide by
    sqrt(mean(x^2)) + eps, as the original without its flash kernel, not by sqrt(mean(x^2) + eps), as with it.
    """

    attn_layers: tuple[int, ...] | None = None
    n_heads: int = 4
    n_kv_heads: int | None = None
    rope_base: float = 1e4
    modal_size: int = 4
    short_kernel: int = 3
    mlp_size: int | None = None
    eps_after_root: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("n_heads", "n_kv_heads", "modal_size", "short_kernel", "mlp_size"):
            value = getattr(self, name)
            least = 2 if name == "short_kernel" else 1
            if value is None and name in ("n_kv_heads", "mlp_size"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"striped_hyena: {name} must be an integer of at least {least}, not {value!r}")
        if self.n_heads % self.kv_heads:
            raise UsageError(
                f"striped_hyena: {self.n_heads} query heads do not divide into {self.kv_heads} groups (n_kv_heads)"
            )
        if not isinstance(self.eps_after_root, bool):
            raise UsageError(f"striped_hyena: eps_after_root must be true or false, not {self.eps_after_root!r}")
        if not self.rope_base > 1:
            raise UsageError(f"striped_hyena: rope_base must be a number above 1, not {self.rope_base!r}")

    @property
    def kv_heads(self) -> int:
        """G, the heads of keys and values."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    def hidden_size(self, d_model: int) -> int:
        """Hidden units of the gated MLP."""
        return -(-8 * d_model // 24) * 8 if self.mlp_size is None else self.mlp_size

    def attends(self, layer: int) -> bool:
        """Whether block `layer` is one of attention."""
        return layer % 2 == 1 if self.attn_layers is None else layer in self.attn_layers


def _size(n_layers: int, d_model: int, n_heads: int, n_kv_heads: int) -> dict[str, Any]:
    own = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "rope_base": 5e5}
    return {"n_layers": n_layers, "d_model": d_model, **own}


class _StripedHyenaLayer(Mixer):
    """What both kinds of layers have in common: options, sizes, and the gated MLP after them."""

    options_class = StripedHyenaOptions
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nano": {"n_heads": 4, "n_kv_heads": 2, "modal_size": 2, "rope_base": 5e5},
        "tiny": {"n_heads": 4, "n_kv_heads": 2, "rope_base": 5e5, "mlp_size": 344},
        "1m": _size(4, 160, 4, 2),
        "3m": _size(4, 208, 4, 2),
        "130m": _size(14, 768, 12, 3),
        "370m": _size(27, 1024, 16, 4),
        **{size: _size(27, 1536, 24, 6) for size in ("780m", "790m")},
        **{size: _size(27, 2048, 32, 8) for size in ("1.3b", "1.4b")},
        **{size: _size(36, 2560, 40, 10) for size in ("2.7b", "2.8b")},
    }

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """Heads of an even width (rotary pairs), and attention layers that exist."""
        own: StripedHyenaOptions = config.own
        if config.d_model % (2 * own.n_heads):
            raise UsageError(
                f"model config: d_model {config.d_model} does not divide into {own.n_heads} heads of an even width"
            )
        outside = [i for i in own.attn_layers or () if not 0 <= i < config.n_layers]
        if outside:
            raise UsageError(f"model config: attn_layers names block {outside[0]} of {config.n_layers}")

    @classmethod
    def for_layer(cls, config: ModelConfig, layer: int) -> Mixer:
        return (AttentionLayer if config.own.attends(layer) else HyenaLayer)(config, layer)

    @classmethod
    def block_norm(cls, config: ModelConfig) -> RMSNorm:
        return (RootEpsNorm if config.own.eps_after_root else RMSNorm)(config.d_model, config.norm_eps)

    @classmethod
    def final_norm(cls, config: ModelConfig) -> RMSNorm:
        return cls.block_norm(config)

    @classmethod
    def feed_forward(cls, config: ModelConfig, layer: int) -> FeedForward:
        return GatedMlp(config.d_model, config.own.hidden_size(config.d_model), n_layers=config.n_layers)

    @property
    def own(self) -> StripedHyenaOptions:
        """The architecture's options."""
        return self.config.own


@mixer("striped_hyena")
class HyenaLayer(_StripedHyenaLayer):
    """Hyena with a modal filter. Shapes: u, x2, x1, v (B, T, d); h (B, d, 2 S), real and imaginary part in turn."""

    no_decay: ClassVar[frozenset[str]] = frozenset({"log_decay", "angle", "residues", "D"})

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        d, taps = config.d_model, self.own.short_kernel
        self.projections = nn.Linear(d, 3 * d)
        self.short_filter = nn.Conv1d(3 * d, 3 * d, taps, groups=3 * d, padding=taps - 1, bias=config.use_conv_bias)
        self.filter = ModalFilter(d, self.own.modal_size)
        self.D = nn.Parameter(torch.empty(d))
        self.out_filter_dense = nn.Linear(d, d)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Linear and convolution layers as PyTorch's default, out_filter_dense scaled as the MLP's last layer; the
        filter as `ModalFilter` says; D from N(0, 1), as in Hyena. The original's own start is a placeholder."""
        d = self.config.d_model
        reset_linear(self.projections.weight, self.projections.bias, d, generator)
        reset_linear(self.short_filter.weight, self.short_filter.bias, self.own.short_kernel, generator)
        self.filter.reset_parameters(generator)
        self.D.copy_(torch.randn(d, generator=generator))
        reset_linear(self.out_filter_dense.weight, None, d, generator)
        self.out_filter_dense.weight *= residual_scale(self.config.n_layers)
        self.out_filter_dense.bias.zero_()

    @torch.no_grad()
    def reset_to_recall(self, generator: torch.Generator) -> None:
        """Write the token before to the residual stream, its channels moved on by a third of the width, where the keys
        of the attention layers look for it (see there). Gates start at 1, the long filter at a tenth."""
        d = self.config.d_model
        v = slice(2 * d, None)
        self.projections.weight[v] = torch.eye(d)
        self.projections.bias[v] = 0.0
        self.projections.weight[: 2 * d] *= 0.1
        if self.short_filter.bias is not None:
            self.short_filter.bias[: 2 * d] = 1.0
            self.short_filter.bias[v] = 0.0
        taps = self.short_filter.weight[v, 0]
        taps.zero_()
        taps[:, -2] = 1.0
        self.filter.residues.mul_(0.1)
        self.D.fill_(1.0)
        self.out_filter_dense.weight.copy_(RECALL_WRITE * torch.eye(d).roll(_shift(d), 0))

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        d, S, taps = self.config.d_model, self.own.modal_size, self.own.short_kernel
        return {
            "conv": torch.zeros(batch, 3 * d, taps - 1, dtype=dtype, device=device),
            "h": torch.zeros(batch, d, 2 * S, dtype=wide(dtype), device=device),
        }

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        """The modal filter: each channel reads its states with residues of its own."""
        modes, D = self.filter, self.D.detach().to(dtype)
        A = torch.complex(-modes.log_decay.detach().to(dtype).exp(), modes.angle.detach().to(dtype))
        C = torch.view_as_complex(modes.residues.detach().to(dtype))
        return (Recurrence(A, D, "long_conv_in", delta=None, B=None, C=C, outputs=("long_conv_out",), groups=len(D)),)

    def impulse_response(self, length: int) -> Tensor:
        """The long filter (d, length), without D."""
        poles, residues = (torch.view_as_complex(x) for x in (self.filter.poles, self.filter.residues))
        return impulse_response(poles, residues, length)

    def site_table(self) -> list[SiteInfo]:
        d, S = self.config.d_model, self.own.modal_size
        window = "inputs of the short convolution that later steps still see, x2, x1, v side by side, oldest first"
        *begin, write, h, h_post, _ = state_sites(d, 2 * S, 3 * d, self.own.short_kernel)
        return [
            *begin,
            SiteInfo("x_in", (3 * d,), "projections before the short convolution: x2, x1, v side by side"),
            SiteInfo("conv_state", (3 * d, self.own.short_kernel - 1), window),
            SiteInfo("x2", (d,), "gate on the long filter's output"),
            SiteInfo("x1", (d,), "gate on the long filter's input"),
            SiteInfo("v", (d,), "value branch, after the short convolution"),
            SiteInfo("long_conv_in", (d,), "x1 * v, the input of the long filter"),
            SiteInfo(
                "poles", (d, S, 2), "poles lambda of the filter, real and imaginary part", wide=True, constant=True
            ),
            SiteInfo(
                "residues", (d, S, 2), "residues r of the filter h_t = Re sum r lambda^t", wide=True, constant=True
            ),
            write,
            h,
            h_post,
            SiteInfo("long_conv_out", (d,), "output of the long filter with D skip"),
            SiteInfo("gated", (d,), "x2 * long_conv_out, the input of out_filter_dense"),
        ]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        state = begun(run, prefix, state, lambda: self.zero_state(len(u), u.dtype, u.device))
        x_in = run.site(prefix + "x_in", self.projections(u))
        mixed, window = convolve(run, prefix, x_in, self.short_filter, state, need_state)
        parts = zip(("x2", "x1", "v"), mixed.chunk(3, -1), strict=True)
        x2, x1, v = (run.site(prefix + name, part.contiguous()) for name, part in parts)
        long_conv_in = run.site(prefix + "long_conv_in", x1 * v)
        poles = torch.view_as_complex(run.constant(prefix + "poles", self.filter.poles).contiguous())
        residues = torch.view_as_complex(run.constant(prefix + "residues", self.filter.residues).contiguous())

        def scan(start: int, stop: int, driven: bool, h: Tensor | None, states_at: list[int] | None) -> Scanned:
            part = long_conv_in[:, start:stop]
            done = modal_scan(
                part if driven else torch.zeros_like(part), poles, residues, initial_state=h,
                reset=None if run.reset is None else run.reset[:, start:stop],
                lengths=None if run.keep is None else (run.lengths - start).clamp(0, stop - start),
                states_at=states_at,
            )  # fmt: skip
            return done._replace(y=done.y + self.D * part) if driven else done

        def read(t: int, h: Tensor) -> Tensor:
            return read_out(h, residues)

        def written(columns: list[int]) -> Tensor:
            entering = long_conv_in[:, columns].to(wide(u.dtype))
            entering = entering if run.keep is None else entering * run.keep[:, columns, None]
            modes = torch.stack([entering, torch.zeros_like(entering)], -1)
            return modes.repeat(1, 1, 1, self.own.modal_size)

        h0 = None if state is None else state["h"]
        done = trace_scan(run, prefix, u.shape[1], h0, scan, read, written)
        y = run.site(prefix + "long_conv_out", done.y)
        out = self.out_filter_dense(run.site(prefix + "gated", x2 * y))
        return out, next_state(need_state, conv=window, h=done.final)


class AttentionLayer(_StripedHyenaLayer):
    """Causal attention with grouped queries and rotary positions; H query heads and G of keys and values, P wide."""

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        d = config.d_model
        kv_width = d // self.own.n_heads * self.own.kv_heads
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, kv_width, bias=False)
        self.v_proj = nn.Linear(d, kv_width, bias=False)
        self.out_proj = nn.Linear(d, d, bias=False)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """PyTorch's default for linear layers, out_proj scaled as the MLP's last layer."""
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            reset_linear(layer.weight, None, self.config.d_model, generator)
        self.out_proj.weight *= residual_scale(self.config.n_layers)

    @torch.no_grad()
    def reset_to_recall(self, generator: torch.Generator) -> None:
        """Queries ask for the token itself and keys offer the token before it, through one projection: keys read the
        channels back that `HyenaLayer.reset_to_recall` moved on. Such a layer points, untrained, at what followed an
        earlier like token (an induction head: Olsson et al., arXiv 2209.11895), and copies it: out_proj is v_proj
        transposed. Only rotary pairs that turn by less than a radian over RECALL_REACH tokens ask so; the others would
        hear the distance more than the content, and keep the reference start."""
        d, H, G = self.config.d_model, self.own.n_heads, self.own.kv_heads
        half = d // H // 2
        pairs = torch.arange(half)
        pairs = pairs[self.own.rope_base ** (-pairs / half) * RECALL_REACH < 1.0]
        slow = torch.cat([pairs, pairs + half])
        if len(slow):
            gain = RECALL_GAIN * (2 * half / len(slow)) ** 0.5 / d**0.5
            keys = (torch.randn(G, len(slow), d, generator=generator) * gain).to(self.k_proj.weight)
            self.k_proj.weight.view(G, 2 * half, d)[:, slow] = keys.roll(_shift(d), 2)
            self.q_proj.weight.view(H, 2 * half, d)[:, slow] = keys.repeat_interleave(H // G, 0)
        values = self.v_proj.weight.view(G, 2 * half, d).repeat_interleave(H // G, 0).flatten(0, 1)
        self.out_proj.weight.copy_(RECALL_READ * values.T)

    def context_operations(self, context: int) -> int:
        """Operations of a token as the last of `context` ones, beside products with parameters: scores and read-out."""
        return 4 * self.config.d_model * context

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        return Records.none(batch, self.k_proj.out_features, dtype, device).as_state()

    def site_table(self) -> list[SiteInfo]:
        d, width = self.config.d_model, self.k_proj.out_features
        return [
            SiteInfo("q", (d,), "queries, before they are turned by position; channel e = head * P + p"),
            SiteInfo("k", (width,), "keys, before they are turned by position"),
            SiteInfo("v", (width,), "values"),
            SiteInfo("z", (d,), "what each head read, the input of out_proj; channel e = head * P + p"),
        ]

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        q = run.site(prefix + "q", self.q_proj(u))
        k = run.site(prefix + "k", self.k_proj(u))
        v = run.site(prefix + "v", self.v_proj(u))
        past = None if state is None else Records.of(state)
        heads = (self.own.n_heads, self.own.kv_heads)
        z, records = recorded_attention(run, q, k, v, heads, self.own.rope_base, past, need_state)
        return self.out_proj(run.site(prefix + "z", z)), None if records is None else records.as_state()
