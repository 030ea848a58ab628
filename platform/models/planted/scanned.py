"""What is true of a memory or shift in an architecture whose states are scanned with vectors B and C of the token."""

from __future__ import annotations

from typing import NamedTuple

from .construction import Construction
from .plan import CONSTANT, LEVEL, Memory, Read, Shift
from .scalars import silu_inverse

#: what opens a gate: silu(z) = 1
OPEN = (Read(CONSTANT, silu_inverse(1.0) / LEVEL),)


class Cells(NamedTuple):
    """values: channels of the values, in their order. copies: channels that hold the same and are not read. held:
    coordinates of the keys, in their order. unread: coordinates that hold the values as well, whatever their key."""

    values: list[int]
    copies: list[int]
    held: list[int]
    unread: list[int]


def true_memory(
    work: Construction, layer: int, memory: Memory, cells: Cells, key_channels: list[int], query_channels: list[int]
) -> None:
    """Enter a memory. key_channels, query_channels: those of `mixer.x` that B and C are made of, [] where they come
    straight from the block's input."""
    name, path, write, read = memory.name, memory.path, memory.write_at, memory.read_at
    V, held, span = cells.values, tuple(cells.held), (*memory.write_at, *memory.read_at)
    value = work.part(f"{name}.value", "value", layer, "mixer.x", V, at=write, path=path)
    work.reads(value, memory.value, write)
    _vector(work, layer, memory, "key", "mixer.B", cells.held, key_channels)
    _vector(work, layer, memory, "query", "mixer.C", cells.held, query_channels)
    state = work.part(f"{name}.state", "state", layer, "mixer.h", V, coordinates=held, at=span, path=path)
    work.edge(value, state)
    work.edge(f"{name}.key", state)
    got = _read_out(work, layer, name, V, memory.into, read, path)
    work.edge(state, got, "state")
    work.edge(f"{name}.query", got)
    work.decoy(f"{name}.copied_value", layer, "mixer.x", cells.copies, at=write)
    work.decoy(f"{name}.copied_state", layer, "mixer.h", cells.copies, coordinates=held, at=span)
    work.decoy(f"{name}.unread_key", layer, "mixer.B", cells.unread, at=write)
    work.decoy(f"{name}.unread_state", layer, "mixer.h", V, coordinates=tuple(cells.unread), at=span)


def true_shift(work: Construction, layer: int, shift: Shift, reads: tuple[Read, ...], channels: list[int]) -> None:
    """Enter a shift through channels of the short convolution."""
    value = work.part(f"{shift.name}.value", "value", layer, "mixer.x", channels, at=shift.at)
    work.reads(value, reads, shift.at)
    work.edge(value, _read_out(work, layer, shift.name, channels, shift.into, shift.at, ""))


def _vector(
    work: Construction, layer: int, memory: Memory, what: str, site: str, held: list[int], channels: list[int]
) -> None:
    reads, at, role = (memory.key, memory.write_at, "key") if what == "key" else (memory.query, memory.read_at, "query")
    name = f"{memory.name}.{what}"
    if channels:
        before = work.part(f"{name}_channels", role, layer, "mixer.x", channels, at=at, path=memory.path)
        work.reads(before, reads, at)
        work.edge(before, work.part(name, role, layer, site, held, at=at, path=memory.path))
    else:
        work.reads(work.part(name, role, layer, site, held, at=at, path=memory.path), reads, at)


def _read_out(
    work: Construction, layer: int, name: str, channels: list[int], into: str, at: tuple[str, ...], path: str
) -> str:
    """Gate, gated read-out and output; the name of the second, which the state and the query come to."""
    gate = work.part(f"{name}.gate", "gate", layer, "mixer.gate", channels, at=at, path=path)
    work.reads(gate, OPEN, ())
    got = work.part(f"{name}.read", "read", layer, "mixer.gated", channels, at=at, path=path)
    out = work.part(f"{name}.out", "output", layer, "mixer_out", work.dims(into), at=at, path=path)
    work.edge(gate, got)
    work.edge(got, out)
    work.writes(out, into)
    return got
