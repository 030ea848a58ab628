"""DenseMamba: Mamba whose layers also read the states of the layers below them (He et al., arXiv 2403.00818).

For l >= 1, with u the normed block input, m neighbours at most and one gate per channel and neighbour,
    G_t = SiLU(W2 SiLU(W1 u_t)),   y_t^l = C_t^l . (h_t^l + sum_{i=1..min(m,l)} G_{t,i} * h_t^{l-i}) + D x_t
(the paper's dense hidden connection with its selective gate, the identity as projection and addition as fusion). W2
starts at zero: then every gate is zero and the model is Mamba, bit for bit. Passed upwards are the states before
fusion. With dense_fuse "recurrent" the sum enters the recurrence instead,
    h_t^l = exp(Delta_t A) h_{t-1}^l + Delta_t B_t x_t + sum_i G_{t,i} * h_t^{l-i},   y_t^l = C_t^l . h_t^l + D x_t,
and the fused states are those that are carried and passed upwards.

The authors released no code for Mamba. The read-out form costs min(m, l) more scans a layer and keeps no states; the
recurrent one keeps the states of all steps, for m layers. In both, layers exchange states beside the residual stream:
restoring the residual stream after a block does not restore what the blocks above it read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.errors import UsageError, suggest
from ...access.run import Run
from ...linear_recurrence import Recurrence
from ...mixer import LayerState, Options, SiteInfo, mixer
from ...model_config import ModelConfig
from ...parts.recurrence import reset_linear, trace_scan
from ..mamba.mamba import MambaMixer, SelectiveScan
from .dense_readout import LayerStates, accumulate, read_fused, scan_and_add

_FUSIONS = ("readout", "recurrent")
_SHARED = "dense_mamba"  # key in `run.shared`: layer -> LayerStates


@dataclass(frozen=True)
class DenseMambaOptions(Options):
    """dense_m: how many layers below are read at most. dense_gate_rank: inner width r of the gate, None for
    ceil(d / 16). dense_fuse: "readout" or "recurrent", where the states below enter."""

    dense_m: int = 2
    dense_gate_rank: int | None = None
    dense_fuse: str = "readout"

    def __post_init__(self) -> None:
        for name in ("dense_m", "dense_gate_rank"):
            value = getattr(self, name)
            if name == "dense_gate_rank" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"model config: {name} must be a positive integer, not {value!r}")
        if self.dense_fuse not in _FUSIONS:
            raise UsageError(f"model config: dense_fuse {self.dense_fuse!r}: {suggest(str(self.dense_fuse), _FUSIONS)}")


@mixer("dense_mamba")
class DenseMambaMixer(MambaMixer):
    """S6 mixer that reads the states of layers below. Shapes as in `MambaMixer`; dense_gate (B, T, min(m, l) E)."""

    options_class: ClassVar[type[Options]] = DenseMambaOptions
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"nano": {"n_layers": 3}, "tiny": {"state_size": 32}}
    hf_class = None

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        self.neighbours = min(config.own.dense_m, layer)
        if self.neighbours:
            rank = config.own.dense_gate_rank or math.ceil(config.d_model / 16)
            self.dense_in = nn.Linear(config.d_model, rank, bias=False)
            self.dense_out = nn.Linear(rank, self.neighbours * config.inner_size, bias=False)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Mamba's, and closed gates: W2 = 0."""
        super().reset_parameters(generator)
        if self.neighbours:
            reset_linear(self.dense_in.weight, None, self.config.d_model, generator)
            self.dense_out.weight.zero_()

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        """Mamba's, of which nothing can be rebuilt alone: layers read each other's states."""
        return tuple(replace(of, outputs=(), around=None) for of in super().recurrences(dtype))

    def context_operations(self, context: int) -> int:
        """Operations of a token beside products with parameters and the recurrence: states of the layers below, gated
        and added."""
        return 2 * self.neighbours * self.config.inner_size * self.config.state_size

    def step(self, u: Tensor, state: LayerState, overwrite: bool = False) -> tuple[Tensor, LayerState] | None:
        """None: a step needs the states of the layers below, which only a run holds."""
        return None

    def site_table(self) -> list[SiteInfo]:
        E, N = self.config.inner_size, self.config.state_size
        table = super().site_table()
        if not self.neighbours:
            return table
        gate = SiteInfo(
            "dense_gate",
            (self.neighbours * E,),
            "factors on the states of the layers below, after silu: E for the nearest, E for the next, ...",
        )
        fused = SiteInfo(
            "h_fused", (E, N), "state with those of the layers below, as step t reads it; an edit acts on that alone"
        )
        y = table.index(next(s for s in table if s.name == "y"))
        state = table.index(next(s for s in table if s.name == "h"))
        return [*table[:state], gate, *table[state:y], fused, *table[y:]]

    def recur(self, recurrence: SelectiveScan, u: Tensor, run: Run, prefix: str) -> tuple[Tensor, Tensor]:
        passed: dict[int, LayerStates] = run.shared.setdefault(_SHARED, {})
        below = [passed[self.layer - i] for i in range(1, self.neighbours + 1)]
        width, recurrent = u.shape[1], self.config.own.dense_fuse == "recurrent"
        gates = self._gates(u, run, prefix)
        added: Tensor | None = None
        scan = recurrence.scan
        if below and recurrent:
            entering = _weighted(gates, [states.at(list(range(width))) for states in below])
            if run.keep is not None:  # nothing enters at padding, as Delta = 0 there
                entering = entering * run.keep[..., None, None]
            added = accumulate(recurrence, entering)
            scan = scan_and_add(recurrence, added)
        done = trace_scan(run, prefix, width, recurrence.start, scan, recurrence.read, recurrence.written)
        own, y = LayerStates(recurrence, done.changes, added), done.y
        read = [] if recurrent else list(zip(gates, below, strict=True))  # beside the layer's own states
        for gate, states in read:
            y = y + gate * states.read(recurrence.C)
        columns = run.columns(prefix + "h_fused") if below and run.active(prefix + "h_fused") else []
        if columns:
            fused = own.at(columns)
            if read:
                fused = fused + _weighted([g[:, columns] for g, _ in read], [states.at(columns) for _, states in read])
            y = read_fused(run, prefix + "h_fused", columns, fused, recurrence.C, y)
        if self.layer + 1 == self.config.n_layers:
            passed.clear()
            return y, done.final
        if width == 1:  # the state after the one step is at hand
            seen = done.unedited + done.changes[0].seen if done.changes else done.unedited
            own = replace(own, held=seen[:, None])
        elif recurrent:
            own = replace(own, held=own.at(list(range(width))))
        passed[self.layer] = own
        passed.pop(self.layer - self.config.own.dense_m, None)  # no layer above reads these
        return y, done.final

    def _gates(self, u: Tensor, run: Run, prefix: str) -> list[Tensor]:
        """G (B, T, E) for each layer below, the nearest first."""
        if not self.neighbours:
            return []
        gate = F.silu(self.dense_out(F.silu(self.dense_in(u))))
        return list(run.site(prefix + "dense_gate", gate).chunk(self.neighbours, -1))


def _weighted(gates: list[Tensor], states: list[Tensor]) -> Tensor:
    """The sum of gate * states over the layers: gates (B, P, E), states (B, P, E, N)."""
    total, *others = (gate.to(h.dtype)[..., None] * h for gate, h in zip(gates, states, strict=True))
    for other in others:
        total = total + other
    return total
