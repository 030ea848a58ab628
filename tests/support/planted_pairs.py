"""Pairs of prompts of the planted copy model for interchange, and the same model seen from a turned basis."""

from __future__ import annotations

import copy
from random import Random

import torch
from mplat.interp.methods.counterfactuals import Answers, Pair
from mplat.models import LanguageModel
from mplat.models.families.mamba.mamba import MambaMixer
from planted_copy import ANSWERS, FILLERS, NAMES, QUERY, RELAY, WORDS
from torch import Tensor

#: the channels of the residual stream that hold the code behind the relay, and what of them differs between names
RELAYED = slice(4, 8)
TRUTH = torch.tensor([[1, -1, 1, -1], [1, 1, -1, -1]], dtype=torch.float64) / 2


def truth() -> Tensor:
    """Orthonormal rows (2, 24): the name's subspace of the residual stream at the relay, behind block 0."""
    rows = torch.zeros(2, 24, dtype=torch.float64)
    rows[:, RELAYED] = TRUTH
    return rows


def name_pairs(count: int, seed: int) -> list[Pair]:
    """Base and source of equal layout with different names and filler words of their own; each is a group."""
    rng = Random(seed)

    def prompt(name: str) -> tuple[int, ...]:
        words = [rng.choice(FILLERS) for _ in range(7)]
        texts = [*words[:2], name, *words[2:4], RELAY, *words[4:], QUERY]
        return tuple(WORDS.index(word) for word in texts)

    def answer(name: str) -> int:
        return WORDS.index(ANSWERS[NAMES.index(name)])

    pairs = []
    for i in range(count):
        base, source = rng.sample(NAMES, 2)
        sources = prompt(source)
        answers = Answers(answer(source), answer(base), answer(source))
        at = {"name": (2, 2), "relay": (5, 5), "between": (4, 4), "last": (9, 9)}
        pairs.append(Pair(f"p{i}", f"g{i}", prompt(base), sources, sources, answers, at))
    return pairs


@torch.no_grad()
def turned(model: LanguageModel, rotation: Tensor) -> LanguageModel:
    """The same function with another basis of the residual stream: what was x is `rotation` x.

    Root mean squares do not see a rotation, and the norms' weights are one.
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
