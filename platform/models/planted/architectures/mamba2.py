"""A plan in Mamba-2: a head for each memory, keys in coordinates of the state, queries in the vector that reads them.

    x_V = silu(value),  B_n = silu(key_n),  C_n = silu(r_n query_n)  with  silu(r_n) = scale factor_n
    S[e, n] <- exp(-0.02) S[e, n] + B_n x_e,   y_e = sum_n C_n S[e, n],   out = gain M size RMSNorm(y silu(z)) / sqrt(E)

B and C come from the block's input through the convolution, which lets keys look one token back. A factor below zero
has to be an image of silu, which is above -0.278: `scale` is 1, or so small that the lowest factor becomes -0.26.
Delta is 1; decay and D belong to a head, so a memory has heads of its own, with D = 0, and a shift one with D = 1.
The gates of all other channels are exactly closed, silu(0) = 0. The norm after the gate then sees the circuit alone:
where it says nothing, zero; else its size is sqrt(E), whatever was read, and the output is as large as `size` says that
values are.
"""

from __future__ import annotations

import math

import torch

from ...families.mamba2.mamba2 import Mamba2Mixer
from ...model_config import ModelConfig
from ..architecture import SLOW, Architecture, common, current_token, delayed, factors, plants
from ..construction import UNREAD, Construction
from ..plan import Memory, Plan, Read, Shift
from ..scalars import silu_inverse, softplus_inverse
from ..scanned import OPEN, Cells, true_memory, true_shift

HEAD = 8  # channels of a head
_LOWEST = -0.26  # of C: near the least that silu can be, -0.278


@plants("mamba2")
class PlantedMamba2(Architecture):
    """See the module."""

    def config(self, plan: Plan) -> ModelConfig:
        return ModelConfig("mamba2", head_dim=HEAD, **common(plan))

    def begin(self, work: Construction, layer: int) -> None:
        mixer = _mixer(work, layer)
        E, N, H = mixer.config.inner_size, mixer.config.state_size, mixer.config.n_heads
        work.free(heads=H, coordinates=N)
        mixer.in_proj.weight.zero_()  # gates, C and Delta
        mixer.in_proj.weight[E : 2 * E + N] = work.random(E + N, work.width)  # x and B
        current_token(mixer.conv1d)
        mixer.dt_bias.fill_(softplus_inverse(1.0))
        mixer.A_log.copy_(torch.linspace(0.0, 1.0, H, dtype=torch.float64))
        mixer.D.fill_(1.0)
        mixer.norm.weight.fill_(1.0)
        mixer.out_proj.weight.zero_()

    def memory(self, work: Construction, layer: int, memory: Memory) -> None:
        mixer = _mixer(work, layer)
        E, N = mixer.config.inner_size, mixer.config.state_size
        V, copies = self._values(work, mixer, memory.value, skip=0.0)
        keys = work.rows(memory.key)
        held, unread = work.take("coordinates", len(keys)), work.take("coordinates", UNREAD)
        mixer.in_proj.weight[[2 * E + n for n in held]] = keys
        delayed(work, mixer.conv1d, [E + n for n in held], memory.key)
        mixer.in_proj.weight[[2 * E + n for n in unread]] = keys.sum(0)
        mixer.conv1d.weight[[E + n for n in unread]] = mixer.conv1d.weight[E + held[0]].clone()
        wanted = factors(work, memory.query)
        scale = min([1.0, *(_LOWEST / factor for factor in wanted if factor < 0)])
        rows = work.rows(read._replace(factor=1.0) for read in memory.query)
        through = torch.tensor([silu_inverse(scale * factor) for factor in wanted], dtype=rows.dtype)
        mixer.in_proj.weight[[2 * E + N + n for n in held]] = rows * through[:, None]
        delayed(work, mixer.conv1d, [E + N + n for n in held], memory.query)
        made = work.matrix(memory.into, len(V), memory.matrix) * memory.gain * memory.size
        self._write(work, mixer, memory.into, V, made)
        true_memory(work, layer, memory, Cells(V, copies, held, unread), [], [])

    def shift(self, work: Construction, layer: int, shift: Shift) -> None:
        mixer = _mixer(work, layer)
        reads = (Read(shift.source, delay=1, at=shift.source_at),)
        V, _ = self._values(work, mixer, reads, skip=1.0)
        self._write(work, mixer, shift.into, V, work.matrix(shift.into, len(V), None))
        true_shift(work, layer, shift, reads, V)

    def _values(
        self, work: Construction, mixer: Mamba2Mixer, reads: tuple[Read, ...], skip: float
    ) -> tuple[list[int], list[int]]:
        """Channels in heads of their own that hold silu of what is read, with open gates; and channels of the same
        heads that hold the first of it as well, with closed ones. skip: D of the heads."""
        rows, E = work.rows(reads), mixer.config.inner_size
        heads = work.take("heads", -(-(len(rows) + min(UNREAD, len(rows))) // HEAD))
        places = [HEAD * head + p for head in heads for p in torch.randperm(HEAD, generator=work.generator).tolist()]
        V, copies = places[: len(rows)], places[len(rows) :][: min(UNREAD, len(rows))]
        for channels in (V, copies):
            mixer.in_proj.weight[[E + c for c in channels]] = rows[: len(channels)]
        delayed(work, mixer.conv1d, V, reads)
        mixer.conv1d.weight[copies] = mixer.conv1d.weight[V[: len(copies)]].clone()
        mixer.in_proj.weight[V] = work.rows(OPEN)
        mixer.A_log[heads] = math.log(SLOW)
        mixer.D[heads] = skip
        return V, copies

    def _write(self, work: Construction, mixer: Mamba2Mixer, into: str, V: list[int], made: torch.Tensor) -> None:
        mixer.out_proj.weight[work.rows_of(into), V] = made / mixer.config.inner_size**0.5


def _mixer(work: Construction, layer: int) -> Mamba2Mixer:
    mixer = work.model.blocks[layer].mixer
    assert isinstance(mixer, Mamba2Mixer)
    return mixer
