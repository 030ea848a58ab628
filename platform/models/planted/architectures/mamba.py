"""A plan in Mamba: values in channels, keys in coordinates of the state, queries in the vector that reads them.

    x_V = silu(value),  B_n = silu(key_n) / silu(1),  C_n = factor_n silu(query_n) / silu(1)
    h[e, n] <- exp(-0.02) h[e, n] + B_n x_e,   y_e = sum_n C_n h[e, n],   out = gain M y / silu(1)

B and C are made of channels of their own, so that they too can look one token back through the convolution. Delta is 1
everywhere, and D is 0 in the channels of a memory. Gates of the circuit stand open: silu(z) = 1. A shift is channels
whose convolution has its one weight on the token before, with D = 1; no query reads their states.
"""

from __future__ import annotations

import math

import torch

from ...families.mamba.mamba import MambaMixer
from ...model_config import ModelConfig
from ..architecture import SLOW, Architecture, common, current_token, delayed, factors, plants
from ..construction import UNREAD, Construction
from ..plan import Memory, Plan, Read, Shift
from ..scalars import silu, softplus_inverse
from ..scanned import OPEN, Cells, true_memory, true_shift


@plants("mamba")
class PlantedMamba(Architecture):
    """See the module."""

    def config(self, plan: Plan) -> ModelConfig:
        return ModelConfig("mamba", **common(plan))

    def begin(self, work: Construction, layer: int) -> None:
        mixer = _mixer(work, layer)
        E, N = mixer.A_log.shape
        work.free(channels=E, coordinates=N)
        mixer.in_proj.weight.copy_(work.random(2 * E, work.width))
        current_token(mixer.conv1d)
        mixer.x_proj.weight.zero_()
        mixer.dt_proj.weight.zero_()
        mixer.dt_proj.bias.fill_(softplus_inverse(1.0))
        mixer.A_log.copy_(torch.linspace(0.0, 1.0, N, dtype=torch.float64).expand(E, -1))
        mixer.D.fill_(1.0)
        mixer.out_proj.weight.zero_()

    def memory(self, work: Construction, layer: int, memory: Memory) -> None:
        mixer = _mixer(work, layer)
        V, K, Q = (self._channels(work, mixer, r) for r in (memory.value, memory.key, _plain(memory.query)))
        copies = work.take("channels", min(UNREAD, len(V)))
        for copy, original in zip(copies, V, strict=False):
            mixer.in_proj.weight[copy] = mixer.in_proj.weight[original]
            mixer.conv1d.weight[copy] = mixer.conv1d.weight[original]
        held, unread = work.take("coordinates", len(K)), work.take("coordinates", UNREAD)
        R, N = int(mixer.config.dt_rank), mixer.config.state_size
        B, C = mixer.x_proj.weight[R : R + N], mixer.x_proj.weight[R + N :]
        B[held, K] = 1.0 / silu(1.0)
        for n in unread:
            B[n, K] = 1.0 / silu(1.0)
        C[held, Q] = torch.tensor(factors(work, memory.query), dtype=C.dtype) / silu(1.0)
        mixer.A_log[:, [*held, *unread]] = math.log(SLOW)
        mixer.D[[*V, *copies]] = 0.0
        self._open(work, mixer, [*V, *copies])
        made = work.matrix(memory.into, len(V), memory.matrix)
        mixer.out_proj.weight[work.rows_of(memory.into), V] = made * memory.gain / silu(1.0)
        true_memory(work, layer, memory, Cells(V, copies, held, unread), K, Q)

    def shift(self, work: Construction, layer: int, shift: Shift) -> None:
        mixer = _mixer(work, layer)
        reads = (Read(shift.source, delay=1, at=shift.source_at),)
        V = self._channels(work, mixer, reads)
        self._open(work, mixer, V)
        mixer.out_proj.weight[work.rows_of(shift.into), V] = work.matrix(shift.into, len(V), None) / silu(1.0)
        true_shift(work, layer, shift, reads, V)

    def _channels(self, work: Construction, mixer: MambaMixer, reads: tuple[Read, ...]) -> list[int]:
        """Channels that hold silu of what is read."""
        rows = work.rows(reads)
        taken = work.take("channels", len(rows))
        mixer.in_proj.weight[taken] = rows
        delayed(work, mixer.conv1d, taken, reads)
        return taken

    def _open(self, work: Construction, mixer: MambaMixer, channels: list[int]) -> None:
        mixer.in_proj.weight[[mixer.config.inner_size + c for c in channels]] = work.rows(OPEN)


def _plain(reads: tuple[Read, ...]) -> tuple[Read, ...]:
    """Without factors: those of a query stand behind the nonlinearity, in what C is made with."""
    return tuple(read._replace(factor=1.0) for read in reads)


def _mixer(work: Construction, layer: int) -> MambaMixer:
    mixer = work.model.blocks[layer].mixer
    assert isinstance(mixer, MambaMixer)
    return mixer
