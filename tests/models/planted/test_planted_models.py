"""What every planted model promises: it answers, through its circuit and nothing else, and the truth says what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.models import LanguageModel, load
from mplat.models.planted import Part, Prompt, ablated, find_planted, isolated, planted_names

NAMES = planted_names()
every_model = pytest.mark.parametrize("name", NAMES)


@cache
def grown(name: str, dtype: str = "float64") -> LanguageModel:
    return load(name, dtype=dtype)


def ids(name: str, prompts: Iterable[Prompt]) -> list[list[int]]:
    words = find_planted(name).words
    return [[words.index(word) for word in prompt.words] for prompt in prompts]


@torch.no_grad()
def accuracy(name: str, prompts: Sequence[Prompt], model: LanguageModel | None = None) -> float:
    model, words = model or grown(name), find_planted(name).words
    said = model(ids(name, prompts), last_only=True)[:, 0].argmax(-1).tolist()
    return sum(words[i] == prompt.answer for i, prompt in zip(said, prompts, strict=True)) / len(prompts)


def without(name: str, parts: Iterable[Part], prompts: Sequence[Prompt]) -> float:
    model = grown(name)
    with model.edit(*ablated(model, parts)):
        return accuracy(name, prompts)


@every_model
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_prompt_is_answered(name: str, dtype: str) -> None:
    planted, model = find_planted(name), grown(name, dtype)
    assert model.dtype == getattr(torch, dtype) and model.name == name
    assert accuracy(name, planted.prompts(60, seed=1), model) == 1.0
    for place in planted.task.places:
        assert accuracy(name, [pair.corrupted for pair in planted.pairs(30, seed=2, place=place)], model) == 1.0
