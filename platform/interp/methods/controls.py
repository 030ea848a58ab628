"""What a candidate is compared with: the rest of its sites, and random others of equal size.

- The complement is everything else of the same sites: what is left is the candidate alone.
- A control has as many channels or coordinates, drawn from the same sites of all blocks without the candidate's own. Of
  something whole (the state, the window, Delta of a block) it is the same of another block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.plan import digest_of
from .candidates import Candidate, Channels, Coordinates, Direction, Part, Window, state_shape
from .recurrences import scans_of

if TYPE_CHECKING:
    from ...models import LanguageModel


def complement(candidate: Candidate) -> Candidate | None:
    """All else of its sites; None where a part is a whole site, or no set of channels or coordinates."""
    parts: list[Part] = []
    for part in candidate.parts:
        if isinstance(part, Channels) and part.channels is not None:
            parts.append(Channels(part.site, part.channels, not part.others))
        elif isinstance(part, Coordinates) and part.pairs is not None:
            parts.append(Coordinates(part.prefix, part.pairs, not part.others))
        else:
            return None
    return Candidate(f"all but {candidate.name}", "complement", tuple(parts), candidate.layer)


def controls(
    model: LanguageModel, candidate: Candidate, layers: Sequence[int], draws: int, seed: int
) -> list[Candidate]:
    """At most so many different random candidates of equal size; none where there is nothing else to draw from."""
    found: dict[str, Candidate] = {}
    for draw in range(draws):
        rng = np.random.default_rng(int(digest_of([seed, candidate.to_json(), draw])[:16], 16))
        parts = _drawn(model, candidate, layers, rng)
        if parts is not None:
            found.setdefault(str(parts), Candidate(f"random for {candidate.name}", "control", parts))
    return list(found.values())


def overlap(a: Candidate, b: Candidate) -> bool:
    """Whether something is part of both."""
    return any(_shared(left, right) for left in a.parts for right in b.parts)


def _shared(a: Part, b: Part) -> bool:
    if isinstance(a, Channels) and isinstance(b, Channels) and a.site == b.site:
        return a.channels is None or b.channels is None or bool(set(a.channels) & set(b.channels))
    if isinstance(a, Coordinates) and isinstance(b, Coordinates) and a.prefix == b.prefix:
        return a.pairs is None or b.pairs is None or bool(set(a.pairs) & set(b.pairs))
    return a == b


def _drawn(
    model: LanguageModel, candidate: Candidate, layers: Sequence[int], rng: np.random.Generator
) -> tuple[Part, ...] | None:
    parts: list[Part] = []
    taken: dict[str, set[Any]] = {}
    for part in candidate.parts:
        match part:
            case Channels(site, channels, False) if channels is not None:
                taken.setdefault(_relative(site), set()).update((site, c) for c in channels)
            case Coordinates(prefix, pairs, False) if pairs is not None:
                taken.setdefault("h", set()).update((prefix, pair) for pair in pairs)
            case Channels() | Coordinates() | Window():
                other = _of_another_block(model, part, candidate, layers, rng)
                if other is None:
                    return None
                parts.append(other)
            case Direction(site, vectors):
                drawn = rng.standard_normal((len(vectors[0]), len(vectors)))
                basis = np.linalg.qr(drawn)[0].T.tolist()
                parts.append(Direction(site, tuple(tuple(row) for row in basis)))
            case _:
                return None
    for where, own in taken.items():
        pool = [unit for unit in _pool(model, where, layers) if unit not in own]
        if len(pool) < len(own):
            return None
        order: list[int] = rng.permutation(len(pool))[: len(own)].tolist()
        picked: list[tuple[str, Any]] = [pool[i] for i in sorted(order)]
        by_site: dict[str, list[Any]] = {}
        for site, unit in picked:
            by_site.setdefault(site, []).append(unit)
        kind = Coordinates if where == "h" else Channels
        parts += [kind(site, tuple(units)) for site, units in by_site.items()]
    return tuple(parts)


def _of_another_block(
    model: LanguageModel, part: Part, candidate: Candidate, layers: Sequence[int], rng: np.random.Generator
) -> Part | None:
    name = part.prefix if isinstance(part, Coordinates) else part.site if isinstance(part, Channels | Window) else ""
    own = {int(_name(p).split(".")[1]) for p in candidate.parts}
    known = {site.name for site in model.sites()}
    choices: list[str] = []
    for layer in layers:
        other = f"blocks.{layer}.{_relative(name)}"
        there = other in known or any(scan.prefix == other for scan in scans_of(model, layer))
        if layer not in own and there:
            choices.append(other)
    if not choices:
        return None
    return type(part)(choices[int(rng.integers(len(choices)))])  # type: ignore[call-arg]


def _name(part: Part) -> str:
    fields: Mapping[str, Any] = vars(part)
    return fields.get("site") or fields["prefix"]


def _relative(site: str) -> str:
    return site.split(".", 2)[2]


def _pool(model: LanguageModel, where: str, layers: Sequence[int]) -> list[tuple[str, Any]]:
    """(site, channel) of all blocks; for `h`, (prefix, (channel, coordinate))."""
    if where == "h":
        return [
            (scan.prefix, (e, n)) for layer in layers for scan in scans_of(model, layer)
            for shape in [state_shape(model, scan)] for e in range(shape[0]) for n in range(shape[1])
        ]  # fmt: skip
    widths = {site.name: int(site.axes[0]) for site in model.sites() if not site.constant}
    names = [f"blocks.{layer}.{where}" for layer in layers]
    return [(name, channel) for name in names for channel in range(widths.get(name, 0))]
