"""The truth of planted models beyond what all have in common: what a part carries, redundancy, superposition."""

from __future__ import annotations

import pytest
import torch
from mplat.models import LanguageModel, Replace, load
from mplat.models.planted import Pair, Part, ablated, find_planted, planted_names
from mplat.models.planted.scalars import silu

#: tasks in which one way alone leads from the word at "value" to the answer
ONE_WAY = ("associative_recall", "copy", "induction", "superposed_pair", "two_hop")


def tokens(name: str, *texts: tuple[str, ...]) -> torch.Tensor:
    words = find_planted(name).words
    return torch.tensor([[words.index(word) for word in text] for text in texts])


@torch.no_grad()
def exchanged(model: LanguageModel, name: str, pair: Pair, part: Part) -> str:
    """What the model says to the corrupted prompt with this part, at its places, as in the clean one."""
    planted = find_planted(name)
    at = sorted(pair.clean.at(place) for place in part.at)
    at = [at[-1]] if part.role == "state" else at
    both = tokens(name, pair.clean.words, pair.corrupted.words)
    with model.capture(part.full_site) as held:
        model(both)
    clean, corrupted = held[part.full_site][:1, at], held[part.full_site][1:, at].clone()
    channels = torch.tensor(part.channels)
    if part.coordinates:
        coordinates = torch.tensor(part.coordinates)
        corrupted[:, :, channels[:, None], coordinates] = clean[:, :, channels[:, None], coordinates]
    else:
        corrupted[:, :, channels] = clean[:, :, channels]
    with model.edit(Replace(part.full_site, corrupted, positions=at)):
        return planted.words[int(model(both[1:])[0, -1].argmax())]


@pytest.mark.parametrize("name", [n for n in planted_names() if find_planted(n).task_name in ONE_WAY])
def test_each_part_that_differs_carries_the_whole_answer(name: str) -> None:
    """Exchanged alone between the prompts of a pair, it exchanges the answers; a decoy exchanges nothing."""
    planted, model = find_planted(name), load(name, dtype="float64")
    pairs, differing = planted.pairs(2, seed=7, place="value"), planted.truth.differing("value")
    assert len(differing) >= 5
    for pair in pairs:
        for part in planted.truth.parts:
            if part.name in differing:
                assert exchanged(model, name, pair, part) == pair.clean.answer, part.name
        for decoy in planted.truth.decoys:
            assert exchanged(model, name, pair, decoy) == pair.corrupted.answer, decoy.name


@pytest.mark.parametrize("name", [n for n in planted_names() if "redundant" in n])
@torch.no_grad()
def test_one_path_of_two_can_go_unnoticed(name: str) -> None:
    planted, model = find_planted(name), load(name, dtype="float64")
    truth = planted.truth
    paths = [[truth.part(part) for part in path] for path in truth.redundant]
    assert len(paths) == 2 and len(paths[0]) == len(paths[1])
    assert not {part.layer for part in paths[0]} & {part.layer for part in paths[1]}
    for prompt in planted.prompts(8):
        text, answer = tokens(name, prompt.words), planted.words.index(prompt.answer)

        def logprob(*gone: Part, text: torch.Tensor = text, answer: int = answer) -> float:
            with model.edit(*ablated(model, gone)):
                return float(torch.log_softmax(model(text)[0, -1], -1)[answer])

        whole = logprob()
        assert max(abs(logprob(*path) - whole) for path in paths) < 0.2
        if prompt.answer != planted.plan.otherwise:
            assert logprob(*paths[0], *paths[1]) - whole < -1.0


@pytest.mark.parametrize("name", [n for n in planted_names() if "superposed" in n])
@torch.no_grad()
def test_two_features_are_one_dimension_in_opposite_directions(name: str) -> None:
    planted, model = find_planted(name), load(name, dtype="float64")
    hot, cold = planted.truth.features
    assert (hot.layer, hot.site, hot.channels) == (cold.layer, cold.site, cold.channels) and len(hot.channels) == 1
    assert sum(a * b for a, b in zip(hot.direction, cold.direction, strict=True)) == -1.0
    held: dict[str, list[float]] = {"hot": [], "cold": [], "mild": []}
    site = f"blocks.{hot.layer}.{hot.site}"
    for prompt in planted.prompts(12):
        with model.capture(site) as acts:
            model(tokens(name, prompt.words))
        held[prompt.answer].append(float(acts[site][0, prompt.at("relay"), list(hot.channels)]))
    assert min(held["hot"]) > 0.5 and max(held["cold"]) < -0.5 and max(map(abs, held["mild"])) < 1e-12


@torch.no_grad()
def test_induction_in_mamba_is_what_its_equations_say() -> None:
    """The values of the trees before the query, under the trees before them, recomputed without the model."""
    planted = find_planted("planted-induction-mamba")
    model, truth, plan = load(planted.name, dtype="float64"), planted.truth, planted.plan
    prompt = planted.prompts(1)[0]
    names = ("blocks.1.mixer_in", "blocks.1.mixer.h", "blocks.1.mixer_out")
    with model.capture(*names) as held:
        model(tokens(planted.name, prompt.words))
    key, value, query = (prompt.at(place) for place in ("key", "value", "query"))
    state, holds = truth.part("match.state"), {word.text: word.holds for word in plan.words}
    u = held["blocks.1.mixer_in"][0]
    norm = float(u[value, truth.part("embed.constant").channels[0]]) / 4.0  # of what stands in the stream at `value`
    unit = (planted.config.d_model / 18.5) ** 0.5
    before = held["blocks.1.mixer_in"][0, value, list(truth.part("before.out").channels)]
    expected_key = torch.tensor([silu(float(b) / unit) / silu(1.0) for b in before])
    expected_value = torch.tensor([silu(c * norm / unit) for c in holds[prompt.answer]["code"]])
    written = expected_value[:, None] * expected_key * torch.exp(torch.tensor(-0.02)) ** (query - 1 - value)
    found = held["blocks.1.mixer.h"][0, query - 1][list(state.channels)][:, list(state.coordinates)]
    asked = [word.text for word in plan.words if "word" in word.holds].index(prompt.words[key])
    assert torch.allclose(found[:, asked], written.to(found.dtype)[:, asked], atol=1e-6)
    assert int(before.argmax()) == asked
