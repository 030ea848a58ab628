"""Planted models as circuits are looked for in them: their pairs as contrasts and items, their truth as edges and
candidates; not a test file."""

from __future__ import annotations

import torch
from mplat.interp.engine.batches import Item
from mplat.interp.methods.candidates import Candidate, Channels, Coordinates
from mplat.interp.methods.circuit_graph import HEAD, Graph
from mplat.interp.methods.contrasts import Contrast
from mplat.models import LanguageModel
from mplat.models.planted import PlantedModel, find_planted


def grown(name: str) -> tuple[PlantedModel, LanguageModel]:
    planted = find_planted(name)
    return planted, planted.grow(torch.float64)


def contrasts_of(planted: PlantedModel, n: int, seed: int = 0, place: str | None = None) -> list[Contrast]:
    """Pairs that differ in the word at `place`, by default the first that the task may differ in."""
    number = {word: i for i, word in enumerate(planted.words)}
    found = []
    for i, pair in enumerate(planted.pairs(n, seed, place)):
        ids = [tuple(number[word] for word in prompt.words) for prompt in (pair.clean, pair.corrupted)]
        answers = [number[prompt.answer] for prompt in (pair.clean, pair.corrupted)]
        found.append(Contrast(f"q{i}", *ids, *answers))
    return found


def items_of(planted: PlantedModel, n: int, seed: int = 0) -> list[Item]:
    """Prompts as questions whose fact is the word that decides."""
    number = {word: i for i, word in enumerate(planted.words)}
    place = planted.task.places[0]
    return [
        Item(f"q{i}", tuple(number[word] for word in prompt.words), (number[prompt.answer],),
             (prompt.places[place], prompt.places[place] + 1), "first" if i < n // 2 else "second")
        for i, prompt in enumerate(planted.prompts(n, seed))
    ]  # fmt: skip


def planted_edges(planted: PlantedModel, graph: Graph) -> list[bool]:
    """Which edges of the graph the difference in the first place comes over."""
    truth, known = planted.truth, set[tuple[object, ...]]()
    for edge in truth.carrying(planted.task.places[0]):
        source, target = truth.part(edge.source), truth.part(edge.target)
        if edge.way == "residual":
            sender = "embed" if source.layer is None else f"blocks.{source.layer}.mixer_out"
            known.add((sender, HEAD if target.layer is None else f"blocks.{target.layer}.mixer_in"))
        elif edge.way == "convolution":
            known.add(("conv", target.layer))
        elif edge.way == "state":
            known |= {("state", source.layer, channel) for channel in source.channels}
    return [
        (e.sender, e.receiver) in known if e.kind == "residual"
        else ("conv", e.layer) in known if e.kind == "conv"
        else any(("state", e.layer, c) in known for c in range(*e.channels or (0, 0)))
        for e in graph.edges
    ]  # fmt: skip


def planted_states(planted: PlantedModel, path: str | None = None) -> Candidate:
    """The planted state coordinates, all of them or those of one path, as one candidate."""
    parts = [p for p in planted.truth.of("state") if path is None or p.path == path]
    return Candidate(
        f"planted states {path or ''}", "planted",
        tuple(Coordinates(f"blocks.{p.layer}.mixer.", tuple(sorted(p.cells))) for p in parts),
    )  # fmt: skip


def planted_outputs(planted: PlantedModel, path: str | None = None) -> Candidate:
    """The channels of the blocks' outputs that the circuit writes, as one candidate."""
    parts = [p for p in planted.truth.of("output") if path is None or p.path == path]
    channels = tuple(Channels(p.full_site, tuple(sorted(p.channels))) for p in parts)
    return Candidate(f"planted outputs {path or ''}", "planted", channels)
