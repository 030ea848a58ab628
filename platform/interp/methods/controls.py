"""What a candidate is compared with: the rest of its sites, and random others of equal size.

- The complement is everything else of the same sites: what is left is the candidate alone.
- A control has as many channels or coordinates, drawn from the same sites of all blocks without the candidate's own; as
  many other living latents of the same autoencoder; a random subspace of as many dimensions; as many other edges. Of
  something whole (the state, the window, Delta of a block) it is the same of another block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.plan import digest_of
from .candidates import Candidate, Channels, Coordinates, Direction, Window, state_shape
from .donor import Part
from .latents import Latents
from .recurrences import scans_of
from .stream_edges import ARROW, StreamEdge, stream_edges

if TYPE_CHECKING:
    from ...models import LanguageModel


def complement(candidate: Candidate) -> Candidate | None:
    """All else of its sites; None where a part is a whole site, or an edge."""
    parts: list[Part] = []
    for part in candidate.parts:
        if isinstance(part, Channels) and part.channels is not None:
            parts.append(Channels(part.site, part.channels, not part.others))
        elif isinstance(part, Coordinates) and part.pairs is not None:
            parts.append(Coordinates(part.prefix, part.pairs, not part.others))
        elif isinstance(part, Direction | Latents):
            parts.append(replace(part, others=not part.others))
        else:
            return None
    return Candidate(f"all but {candidate.name}", "complement", tuple(parts), candidate.layer)


def controls(
    model: LanguageModel, candidate: Candidate, layers: Sequence[int], draws: int, seed: int,
    living: Mapping[str, Sequence[int]] | None = None,
) -> list[Candidate]:  # fmt: skip
    """At most so many different random candidates of equal size; none where there is nothing else to draw from.

    living: by autoencoder the latents that are drawn from.
    """
    found: dict[str, Candidate] = {}
    for draw in range(draws):
        rng = np.random.default_rng(int(digest_of([seed, candidate.to_json(), draw])[:16], 16))
        parts = _drawn(model, candidate, layers, rng, living or {})
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
    if isinstance(a, Latents) and isinstance(b, Latents) and (a.site, a.autoencoder) == (b.site, b.autoencoder):
        return bool(set(a.latents) & set(b.latents))
    if isinstance(a, StreamEdge) and isinstance(b, StreamEdge):
        return a == b
    return a == b or (_space(a) is not None and _space(a) == _space(b))


def _space(part: Part) -> str | None:
    """The site of whose vectors it is a part, in whatever basis."""
    if isinstance(part, Channels | Direction | Latents):
        return part.site
    return part.sender if isinstance(part, StreamEdge) else None


def _drawn(
    model: LanguageModel, candidate: Candidate, layers: Sequence[int], rng: np.random.Generator,
    living: Mapping[str, Sequence[int]],
) -> tuple[Part, ...] | None:  # fmt: skip
    parts: list[Part] = []
    taken: dict[str, set[Any]] = {}
    for part in candidate.parts:
        match part:
            case Channels(site, channels, False) if channels is not None:
                taken.setdefault(_relative(site), set()).update((site, c) for c in channels)
            case Coordinates(prefix, pairs, False) if pairs is not None:
                taken.setdefault("h", set()).update((prefix, pair) for pair in pairs)
            case StreamEdge():
                taken.setdefault(ARROW, set()).add((part.name, part))
            case Latents(site, name, latents, False):
                pool = [i for i in living.get(name, ()) if i not in latents]
                if len(pool) < len(latents):
                    return None
                chosen: list[int] = rng.permutation(pool)[: len(latents)].tolist()
                parts.append(Latents(site, name, tuple(sorted(chosen))))
            case Channels() | Coordinates() | Window():
                other = _of_another_block(model, part, candidate, layers, rng)
                if other is None:
                    return None
                parts.append(other)
            case Direction(site, vectors, False):
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
        if where == ARROW:
            parts += [edge for _, edge in picked]
            continue
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
    own = {int(name.split(".")[1]) for p in candidate.parts if (name := _name(p)).startswith("blocks.")}
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
    return fields.get("site") or fields.get("prefix") or fields["sender"]


def _relative(site: str) -> str:
    return site.split(".", 2)[2]


def _pool(model: LanguageModel, where: str, layers: Sequence[int]) -> list[tuple[str, Any]]:
    """(site, channel) of all blocks; for `h`, (prefix, (channel, coordinate)); for an arrow, (name, edge)."""
    if where == ARROW:
        return [(edge.name, edge) for edge in stream_edges(model, layers)]
    if where == "h":
        return [
            (scan.prefix, (e, n)) for layer in layers for scan in scans_of(model, layer)
            for shape in [state_shape(model, scan)] for e in range(shape[0]) for n in range(shape[1])
        ]  # fmt: skip
    widths = {site.name: int(site.axes[0]) for site in model.sites() if not site.constant}
    names = [f"blocks.{layer}.{where}" for layer in layers]
    return [(name, channel) for name in names for channel in range(widths.get(name, 0))]
