"""A plan in StripedHyena, a hybrid: memories of one key in the filters of Hyena, of many keys in attention.

Hyena    x1 = key, v = value, x2 = query;  h <- exp(-0.02) h + x1 v,  out = gain M (x2 Re h)
         A filter is the same for all tokens, so that a state cannot be chosen by content: one key at most. The first of
         the complex states of a channel is read, with residue 1 and D = 0; the others hold the same and are not read.
         Shift: v is the token before, x1 = x2 = 1 by bias, D = 1, no state is read.
Attention  score = SHARP key . query, raw = gain M softmax(score) value, in head 0; head 1 is busy.
         Keys and queries stand in rotary pairs that turn by less than 2.5e-4 a token, so that content alone decides.
         out = silu(STEEP (raw - 1/2)) / silu(STEEP / 2), by the MLP of the block: where no key fits, attention sees the
         mean of all values, and each is less than a half of it, so that nothing is said.

A memory is attention in blocks of an odd number and wherever it has several keys; what a plan reads of the token before
is written into the stream by a block of Hyena in front. Other units of the MLPs are busy and add nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ....core.errors import UsageError
from ...families.striped_hyena.striped_hyena import AttentionLayer, HyenaLayer
from ...model_config import ModelConfig
from ..architecture import SLOW, Architecture, common, current_token, delayed, plants
from ..construction import UNREAD, Construction
from ..plan import CONSTANT, LEVEL, Block, Memory, Plan, Read, Shift
from ..scalars import silu

HEADS, MODES = 2, 2
SHARP = 10.0  # score of a key that fits
STEEP = 16.0
UNITS = 12  # of an MLP
_TURNS = 1e12  # base of the rotary positions
_STILL = 2.5e-4  # radians a token: pairs that turn by less are used
_BEFORE = "{} before"  # the space for the token before
_RAW = "{} raw"  # the space for what attention saw, before the MLP


@plants("striped_hyena")
class PlantedStripedHyena(Architecture):
    """See the module."""

    def prepared(self, plan: Plan) -> Plan:
        """With a block in front, or in the empty first one, that writes what is read of the token before, and with
        spaces for what attention sees."""
        shifts: dict[tuple[str, tuple[str, ...]], Shift] = {}
        spaces = dict(plan.spaces)

        def direct(read: Read, at: tuple[str, ...]) -> Read:
            if not read.delay:
                return read
            into = _BEFORE.format(read.space)
            spaces[into] = spaces[read.space]
            shifts[read.space, at] = Shift(f"before {read.space}", read.space, into, at, read.at)
            return Read(into, read.factor)

        def changed(entry: Memory | Shift) -> Memory | Shift:
            if isinstance(entry, Shift):
                return entry
            key, value = (tuple(direct(read, entry.write_at) for read in of) for of in (entry.key, entry.value))
            return dataclasses.replace(entry, key=key, value=value)

        blocks = [tuple(changed(entry) for entry in block) for block in plan.blocks]
        if shifts and blocks[0]:
            blocks.insert(0, ())
        if shifts:
            blocks[0] = tuple(shifts.values())
        for layer, block in enumerate(blocks):
            if _attends(layer, block, spaces):
                spaces |= {_RAW.format(e.name): spaces[e.into] for e in block if isinstance(e, Memory)}
        width = -(-(1 + sum(spaces.values())) // 8) * 8
        return dataclasses.replace(plan, spaces=spaces, blocks=tuple(blocks), d_model=max(plan.d_model, width))

    def config(self, plan: Plan) -> ModelConfig:
        attends = tuple(i for i, block in enumerate(plan.blocks) if _attends(i, block, plan.spaces))
        own = {"attn_layers": attends, "n_heads": HEADS, "modal_size": MODES, "rope_base": _TURNS, "mlp_size": UNITS}
        return ModelConfig("striped_hyena", own=own, **common(plan))

    def begin(self, work: Construction, layer: int) -> None:
        mixer, d = work.model.blocks[layer].mixer, work.width
        mlp = work.model.blocks[layer].feed_forward
        assert mlp is not None
        for weight in mlp.parameters():
            weight.copy_(work.random(*weight.shape))
        mlp.get_parameter("down_proj.weight").zero_()
        work.free()
        work.choose("units", range(UNITS))
        if isinstance(mixer, HyenaLayer):
            work.choose("channels", range(d))
            mixer.projections.weight.copy_(work.random(3 * d, d))
            mixer.projections.bias.zero_()
            current_token(mixer.short_filter)
            mixer.filter.log_decay.copy_(torch.linspace(math.log(SLOW), 0.0, MODES, dtype=torch.float64).expand(d, -1))
            mixer.filter.angle.zero_()
            mixer.filter.residues.copy_(work.random(d, MODES, 2))
            mixer.D.fill_(1.0)
            mixer.out_filter_dense.weight.zero_()
            mixer.out_filter_dense.bias.zero_()
        else:
            assert isinstance(mixer, AttentionLayer)
            width = d // HEADS
            pairs = torch.arange(width // 2)
            still = pairs[_TURNS ** (-pairs / (width // 2)) < _STILL].tolist()
            work.choose("values", range(width))
            work.choose("keys", [*still, *(width // 2 + pair for pair in still)])
            for layer_of in (mixer.q_proj, mixer.k_proj, mixer.v_proj):
                layer_of.weight.copy_(work.random(d, d))
            for layer_of in (mixer.q_proj, mixer.k_proj):
                layer_of.weight[:width] = 0.0
            mixer.out_proj.weight.zero_()

    def memory(self, work: Construction, layer: int, memory: Memory) -> None:
        mixer = work.model.blocks[layer].mixer
        if isinstance(mixer, HyenaLayer):
            self._filtered(work, layer, mixer, memory)
        else:
            assert isinstance(mixer, AttentionLayer)
            self._attended(work, layer, mixer, memory)

    def shift(self, work: Construction, layer: int, shift: Shift) -> None:
        mixer, d = work.model.blocks[layer].mixer, work.width
        assert isinstance(mixer, HyenaLayer)
        reads = (Read(shift.source, delay=1, at=shift.source_at),)
        rows = work.rows(reads)
        V = work.take("channels", len(rows))
        x2, x1, v = ([part * d + c for c in V] for part in range(3))
        mixer.projections.weight[[*x2, *x1]] = 0.0
        mixer.projections.bias[[*x2, *x1]] = 1.0
        mixer.projections.weight[v] = rows
        delayed(work, mixer.short_filter, v, reads)
        mixer.filter.residues[V] = 0.0
        mixer.out_filter_dense.weight[work.rows_of(shift.into), V] = work.matrix(shift.into, len(V), None)
        value = work.part(f"{shift.name}.value", "value", layer, "mixer.v", V, at=shift.at)
        work.reads(value, reads, shift.at)
        gates = [
            work.part(f"{shift.name}.gate of {x}", "gate", layer, f"mixer.{x}", V, at=shift.at) for x in ("x1", "x2")
        ]
        self._read_out(work, layer, shift.name, V, shift.into, shift.at, "", "mixer.gated", [value, *gates])

    def _filtered(self, work: Construction, layer: int, mixer: HyenaLayer, memory: Memory) -> None:
        d, name, path, write, read = work.width, memory.name, memory.path, memory.write_at, memory.read_at
        values, keys, queries = (work.rows(reads) for reads in (memory.value, memory.key, memory.query))
        if len(keys) > 1:
            raise UsageError(f"memory {name}: a filter keeps what follows one key, not {len(keys)}")
        V = work.take("channels", len(values))
        copies = work.take("channels", min(UNREAD, len(V)))
        for part, rows in enumerate((queries, keys, values)):
            mixer.projections.weight[[part * d + c for c in V]] = rows
            mixer.projections.weight[[part * d + c for c in copies]] = rows[: len(copies)]
        mixer.filter.residues[[*V, *copies]] = 0.0
        mixer.filter.residues[[*V, *copies], 0, 0] = 1.0
        mixer.D[[*V, *copies]] = 0.0
        self._write(work, mixer.out_filter_dense.weight, memory, memory.into, V)

        span = (*write, *read)
        value = work.part(f"{name}.value", "value", layer, "mixer.v", V, at=write, path=path)
        key = work.part(f"{name}.key", "key", layer, "mixer.x1", V, at=write, path=path)
        query = work.part(f"{name}.query", "query", layer, "mixer.x2", V, at=read, path=path)
        state = work.part(f"{name}.state", "state", layer, "mixer.h", V, coordinates=(0,), at=span, path=path)
        for target, reads, at in ((value, memory.value, write), (key, memory.key, write), (query, memory.query, read)):
            work.reads(target, reads, at)
        work.edge(value, state)
        work.edge(key, state)
        got = self._read_out(work, layer, name, V, memory.into, read, path, "mixer.gated", [query])
        work.edge(state, got, "state")
        work.decoy(f"{name}.copied_value", layer, "mixer.v", copies, at=write)
        work.decoy(f"{name}.copied_state", layer, "mixer.h", copies, coordinates=(0,), at=span)
        work.decoy(f"{name}.unread_state", layer, "mixer.h", V, coordinates=tuple(range(2, 2 * MODES, 2)), at=span)

    def _attended(self, work: Construction, layer: int, mixer: AttentionLayer, memory: Memory) -> None:
        name, path, write, read = memory.name, memory.path, memory.write_at, memory.read_at
        values, keys, queries = (work.rows(reads) for reads in (memory.value, memory.key, memory.query))
        V, K = work.take("values", len(values)), work.take("keys", len(keys))
        copies = work.take("values", min(UNREAD, len(V)))
        mixer.v_proj.weight[V], mixer.v_proj.weight[copies] = values, values[: len(copies)]
        mixer.k_proj.weight[K] = keys
        mixer.q_proj.weight[K] = queries * SHARP * (work.width // HEADS) ** 0.5
        raw = _RAW.format(name)
        self._write(work, mixer.out_proj.weight, memory, raw, V)

        value = work.part(f"{name}.value", "value", layer, "mixer.v", V, at=write, path=path)
        key = work.part(f"{name}.key", "key", layer, "mixer.k", K, at=write, path=path)
        query = work.part(f"{name}.query", "query", layer, "mixer.q", K, at=read, path=path)
        for target, reads, at in ((value, memory.value, write), (key, memory.key, write), (query, memory.query, read)):
            work.reads(target, reads, at)
        got = self._read_out(work, layer, name, V, raw, read, path, "mixer.z", [query])
        work.edge(value, got, "attention")
        work.edge(key, got, "attention")
        work.decoy(f"{name}.copied_value", layer, "mixer.v", copies, at=write)
        work.decoy(f"{name}.copied_read", layer, "mixer.z", copies, at=read)
        self._sharpened(work, layer, memory)

    def _sharpened(self, work: Construction, layer: int, memory: Memory) -> None:
        """What attention saw, brought near to 0 or 1 by the block's MLP."""
        mlp, name, path, at = work.model.blocks[layer].feed_forward, memory.name, memory.path, memory.read_at
        assert mlp is not None
        raw = (Read(_RAW.format(name), STEEP),)
        rows, constant = work.rows(raw), work.rows([Read(CONSTANT, 1.0 / LEVEL)])
        units = work.take("units", len(rows))
        mlp.get_parameter("gate_proj.weight")[units] = rows - STEEP / 2 * constant
        mlp.get_parameter("up_proj.weight")[units] = constant
        identity = work.matrix(memory.into, len(rows), None)
        mlp.get_parameter("down_proj.weight")[work.rows_of(memory.into), units] = identity / silu(STEEP / 2)
        hidden = work.part(f"{name}.sharpened", "read", layer, "mlp.hidden", units, at=at, path=path)
        work.reads(hidden, (*raw, Read(CONSTANT)), at)
        said = work.part(f"{name}.said", "output", layer, "mlp_out", work.dims(memory.into), at=at, path=path)
        work.edge(hidden, said)
        work.writes(said, memory.into)

    def _write(self, work: Construction, weight: Tensor, memory: Memory, into: str, V: list[int]) -> None:
        weight[work.rows_of(into), V] = work.matrix(into, len(V), memory.matrix) * memory.gain

    def _read_out(
        self, work: Construction, layer: int, name: str, V: list[int], into: str, at: tuple[str, ...], path: str,
        site: str, sources: Sequence[str],
    ) -> str:  # fmt: skip
        got = work.part(f"{name}.read", "read", layer, site, V, at=at, path=path)
        out = work.part(f"{name}.out", "output", layer, "mixer_out", work.dims(into), at=at, path=path)
        for source in sources:
            work.edge(source, got)
        work.edge(got, out)
        work.writes(out, into)
        return got


def _attends(layer: int, block: Block, spaces: Mapping[str, int]) -> bool:
    memories = [entry for entry in block if isinstance(entry, Memory)]
    several = any(sum(spaces[read.space] for read in memory.key) > 1 for memory in memories)
    return bool(memories) and (several or layer % 2 == 1)
