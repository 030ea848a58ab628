"""In a planted chain of two hops, alignment search finds the first hop's answer where it is, and not who is asked."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from mplat.interp.engine.fitting import Schedule
from mplat.interp.engine.places import places
from mplat.interp.methods.alignment import align, principal_cosines, random_subspace
from mplat.interp.methods.counterfactuals import Answers, Pair
from mplat.interp.methods.interchange import Exchange, Region, outcome, prepare, regions
from mplat.models import LanguageModel
from mplat.models.planted import PlantedModel, Prompt, find_planted
from torch import Tensor

ARCHITECTURES = ("mamba", "mamba2")


def bridge_pairs(planted: PlantedModel, count: int, seed: int) -> list[Pair]:
    """Base and source of one length, whose names lead to different cities; the base says a colour of both."""
    token = {word: i for i, word in enumerate(planted.words)}
    prompts = planted.prompts(400, seed)

    def city(prompt: Prompt) -> str:
        return prompt.words[prompt.at("bridge")]

    def colour_of(prompt: Prompt, wanted: str) -> str | None:
        behind = zip(prompt.words, prompt.words[1:], strict=False)
        return next((b for a, b in behind if a == wanted and b in planted.plan.answers), None)

    pairs: list[Pair] = []
    for i, base in enumerate(prompts):
        for source in prompts[i + 1 :]:
            target = colour_of(base, city(source))
            answers = (target, base.answer, source.answer)
            if len(base.words) == len(source.words) and target and len(set(answers)) == 3:
                ids = tuple(tuple(token[word] for word in one.words) for one in (base, source))
                said = Answers(*(token[str(word)] for word in answers))
                at = {"query": (base.at("query"), source.at("query"))}
                pairs.append(Pair(f"p{i}", base.words[-1], *ids, ids[0], said, at))
                break
    return pairs[:count]


@cache
def prepared(architecture: str) -> tuple[LanguageModel, Exchange, Exchange, Region, Tensor]:
    """The model, pairs to learn on and to judge on, the site behind block 0, and the truth in it."""
    planted = find_planted(f"planted-two-hop-{architecture}")
    model = planted.grow(torch.float64)
    (place,) = places(model, [0], ["resid_post"])
    train, test = (prepare(model, bridge_pairs(planted, 96, seed), "query", [place]) for seed in (0, 1))
    (found,) = planted.truth.of("output", layer=0)
    one_hot = torch.zeros(len(found.channels), place.channels, dtype=torch.float64)
    one_hot[range(len(found.channels)), list(found.channels)] = 1.0
    between = torch.linalg.svd(one_hot - one_hot.mean(0))[2][: len(one_hot) - 1]
    return model, train, test, regions(place, 1)[0], between


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_city_is_found_and_sets_the_colour_that_the_base_says_of_it(architecture: str) -> None:
    model, train, test, region, truth = prepared(architecture)
    assert outcome(model, test, region, truth).target.mean() == 1.0
    found = align("city", model, train, region, len(truth), schedule=Schedule(100, 32, 0.2), seed=0)
    said = outcome(model, test, region, found.subspace)
    assert said.target.mean() > 0.95 and said.source.mean() < 0.05
    assert min(principal_cosines(found.subspace, truth)) > 0.95


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_subspaces_do_not(architecture: str) -> None:
    model, _, test, region, truth = prepared(architecture)
    for seed in range(10):
        rows = random_subspace(len(truth), region.size, seed)
        assert outcome(model, test, region, rows).target.mean() < 0.4
