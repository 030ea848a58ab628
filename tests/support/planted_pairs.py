"""Pairs of prompts of `planted-copy-mamba` for interchange, and the same model seen from a turned basis."""

from __future__ import annotations

import copy
from random import Random

import torch
from mplat.interp.methods.counterfactuals import Answers, Pair
from mplat.models import LanguageModel
from mplat.models.families.mamba.mamba import MambaMixer
from mplat.models.planted import find_planted
from mplat.models.planted.plan import code
from mplat.models.planted.tasks.copy import ANSWERS, FILLERS, NAMES, QUERY, RELAY
from torch import Tensor

PLANTED = find_planted("planted-copy-mamba")
WIDTH = 24


def copy_model() -> LanguageModel:
    """The model, in float64."""
    return PLANTED.grow(torch.float64)


def relayed() -> Tensor:
    """Orthonormal rows (2, 24): what differs between names in the residual stream at the relay, behind block 0."""
    (out,) = PLANTED.truth.of("output", layer=0)
    codes = torch.tensor([code(i) for i in range(len(NAMES))], dtype=torch.float64)
    _, sizes, directions = torch.linalg.svd(codes - codes.mean(0), full_matrices=False)
    rows = torch.zeros(int((sizes > 1e-9).sum()), WIDTH, dtype=torch.float64)
    rows[:, list(out.channels)] = directions[: len(rows)]
    return rows


def name_pairs(count: int, seed: int) -> list[Pair]:
    """Base and source of equal layout with different names and filler words of their own; each is a group."""
    rng = Random(seed)

    def prompt(name: str) -> tuple[int, ...]:
        words = [rng.choice(FILLERS) for _ in range(7)]
        return tuple(map(PLANTED.words.index, [*words[:2], name, *words[2:4], RELAY, *words[4:], QUERY]))

    def answer(name: str) -> int:
        return PLANTED.words.index(ANSWERS[NAMES.index(name)])

    pairs = []
    for i in range(count):
        base, source = rng.sample(NAMES, 2)
        sources = prompt(source)
        answers = Answers(answer(source), answer(base), answer(source))
        at = {"name": (2, 2), "between": (4, 4), "relay": (5, 5), "last": (9, 9)}
        pairs.append(Pair(f"p{i}", f"g{i}", prompt(base), sources, sources, answers, at))
    return pairs


@torch.no_grad()
def turned(model: LanguageModel, rotation: Tensor) -> LanguageModel:
    """The same function with another basis of the residual stream: what was x is `rotation` x.

    Root mean squares do not see a rotation, and the norms' weights are equal.
    """
    other = copy.deepcopy(model, {id(model.tokenizer): model.tokenizer})
    other.backbone.embeddings.weight.copy_(model.backbone.embeddings.weight @ rotation.T)
    assert other.lm_head is not None and model.lm_head is not None
    other.lm_head.weight.copy_(model.lm_head.weight @ rotation.T)
    for block, was in zip(other.blocks, model.blocks, strict=True):
        assert isinstance(block.mixer, MambaMixer) and isinstance(was.mixer, MambaMixer)
        block.mixer.in_proj.weight.copy_(was.mixer.in_proj.weight @ rotation.T)
        block.mixer.out_proj.weight.copy_(rotation @ was.mixer.out_proj.weight)
    return other
