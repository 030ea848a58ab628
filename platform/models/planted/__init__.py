"""Planted models: weights set by hand, so that the circuit that answers is known to the last coordinate.

    from mplat.models import load
    from mplat.models.planted import ablated, find_planted, isolated, planted_names

    planted = find_planted("planted-induction-mamba")     # planted_names(): planted-TASK-ARCHITECTURE
    model = load(planted.name)                            # as any other; float64: load(planted.name, dtype="float64")
    planted.prompts(12, seed=0)                           # Prompt: words, text, answer, places {"value": 4, ...}
    planted.pairs(12, seed=0, place="value")              # Pair: clean, corrupted, of equal length, one word differs
    truth = planted.truth                                 # Truth: parts, edges, decoys, redundant, features
    truth.part("match.state")                             # Part: layer, site, channels, coordinates, at, role, path
    truth.differing("value"), truth.carrying("value")     # names of parts, edges: what differs in those pairs
    with model.edit(*ablated(model, truth.of("state"))):  # or isolated(model, truth.parts)
        ...
    planted.chance, planted.words, planted.plan           # 1 / answers, the vocabulary, the circuit in words

Every word is one token: position i of a prompt is its i-th word, and the answer is the next token. As questions for
analyses: `mplat.datasets.planted`. What each task and architecture computes stands in its file (`tasks`,
`architectures`). No weights are stored.
"""

from __future__ import annotations

from .ablation import ablated, isolated
from .planted_model import PlantedModel, find_planted, is_planted, planted_names
from .prompt import Pair, Prompt
from .task import Task
from .truth import Edge, Feature, Part, Truth

__all__ = [
    "Edge", "Feature", "Pair", "Part", "PlantedModel", "Prompt", "Task", "Truth", "ablated", "find_planted",
    "is_planted", "isolated", "planted_names",
]  # fmt: skip
