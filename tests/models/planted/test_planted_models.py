"""What every planted model promises: it answers, by its circuit and by nothing else, and its truth says what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from mplat.models import LanguageModel, load
from mplat.models.planted import Part, Prompt, ablated, find_planted, isolated, planted_names
from mplat.models.planted.task import TASKS

NAMES = planted_names()
ARCHITECTURES = ("mamba", "mamba2", "striped_hyena")
FREE = {"constant", "logits"}  # roles of what every answer needs: not a circuit's own
every_model = pytest.mark.parametrize("name", NAMES)
ROUNDING = 1e-9
#: tasks in which what is written is as long whatever it is, so that the norm before a block tells nothing of it
EVEN = {"associative_recall", "copy", "induction", "redundant_path"}


@cache
def grown(name: str, dtype: str = "float64") -> LanguageModel:
    return load(name, dtype=dtype)


@cache
def asked(name: str, n: int = 24) -> tuple[Prompt, ...]:
    return find_planted(name).prompts(n, seed=1)


def ids(name: str, prompts: Iterable[Prompt]) -> list[list[int]]:
    words = find_planted(name).words
    return [[words.index(word) for word in prompt.words] for prompt in prompts]


@torch.no_grad()
def accuracy(name: str, prompts: Sequence[Prompt], model: LanguageModel | None = None) -> float:
    model, words = model or grown(name), find_planted(name).words
    said = model(ids(name, prompts), last_only=True)[:, 0].argmax(-1).tolist()
    return sum(words[i] == prompt.answer for i, prompt in zip(said, prompts, strict=True)) / len(prompts)


def without(name: str, parts: Iterable[Part]) -> float:
    model = grown(name)
    with model.edit(*ablated(model, parts)):
        return accuracy(name, asked(name))


def test_every_task_is_there_in_every_architecture() -> None:
    expected = {f"planted-{task}-{arch}".replace("_", "-") for task in TASKS.names() for arch in ARCHITECTURES}
    assert set(NAMES) == expected
    assert {
        "associative_recall", "copy", "indirect_object", "induction", "redundant_path", "superposed_pair", "two_hop",
    } <= set(TASKS.names())  # fmt: skip


@every_model
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_prompt_is_answered(name: str, dtype: str) -> None:
    planted, model = find_planted(name), grown(name, dtype)
    assert model.name == name and model.dtype == getattr(torch, dtype) and model.config == planted.config
    assert model.config.d_model <= 64 and model.n_layers <= 4 and model.config.arch == planted.architecture_name
    assert accuracy(name, planted.prompts(120, seed=3), model) == 1.0
    for place in planted.task.places:
        assert accuracy(name, [pair.corrupted for pair in planted.pairs(40, seed=2, place=place)], model) == 1.0


@every_model
def test_the_circuit_suffices(name: str) -> None:
    """With everything else at its sites at zero, the embeddings among them, every prompt is answered."""
    model, truth = grown(name), find_planted(name).truth
    with model.edit(*isolated(model, truth.parts)):
        assert accuracy(name, asked(name)) == 1.0
    with model.edit(*isolated(model, [part for part in truth.parts if part.role != "output"])):
        assert accuracy(name, asked(name)) == 1.0


@every_model
def test_every_part_is_necessary(name: str) -> None:
    """Alone at zero, it leaves no more than chance; of a circuit that stands there twice, both copies together."""
    planted = find_planted(name)
    truth, chance = planted.truth, planted.chance
    for part in truth.parts:
        if part.role not in FREE:
            assert without(name, [part]) == 1.0 if part.path else without(name, [part]) <= chance, part.name
    for one, other in zip(*truth.redundant, strict=True) if truth.redundant else ():
        assert without(name, [truth.part(one), truth.part(other)]) <= chance, one


@every_model
def test_decoys_hold_what_parts_hold_and_nothing_reads_them(name: str) -> None:
    planted, model = find_planted(name), grown(name)
    truth, (pair, *_) = planted.truth, planted.pairs(1)
    texts = torch.tensor(ids(name, [pair.clean, pair.corrupted]))
    copied = [
        (decoy, truth.part(decoy.name.replace("copied_", ""))) for decoy in truth.decoys if "copied" in decoy.name
    ]
    assert truth.decoys and (copied or planted.task_name == "none")
    with torch.no_grad(), model.capture(*{part.full_site for part in (*truth.parts, *truth.decoys)}) as held:
        plain = model(texts)
    for decoy, part in copied:
        found, of_part = (of(held[p.full_site], p) for p in (decoy, part) for of in (_content,))
        assert float((found - of_part[:, :, : found.shape[2]]).abs().max()) < ROUNDING, decoy.name
    for decoy in truth.decoys:
        assert float(_content(held[decoy.full_site], decoy).abs().max()) > 0.01, decoy.name
    with torch.no_grad(), model.edit(*ablated(model, truth.decoys)):
        assert float((model(texts) - plain).abs().max()) < ROUNDING
    with torch.no_grad(), model.edit(*ablated(model, truth.of("value"))):
        assert float((model(texts) - plain).abs().max()) > 1.0  # the edits do act


@every_model
def test_a_pair_differs_where_the_truth_says(name: str) -> None:
    """Parts that are not said to differ hold the same at their places, and all others of the first kind do not."""
    planted, model = find_planted(name), grown(name)
    truth = planted.truth
    for place in planted.task.places:
        pairs, differing = planted.pairs(12, seed=5, place=place), truth.differing(place)
        apart = dict.fromkeys((part.name for part in truth.parts), 0.0)
        for pair in pairs:
            changed = [i for i, (a, b) in enumerate(zip(pair.clean.words, pair.corrupted.words, strict=True)) if a != b]
            assert changed == [pair.clean.at(place)] and pair.clean.answer != pair.corrupted.answer
            with torch.no_grad(), model.capture(*{part.full_site for part in truth.parts}) as held:
                model(torch.tensor(ids(name, [pair.clean, pair.corrupted])))
            for part in truth.parts:
                at = [pair.clean.at(where) for where in part.at] or [0]
                at = [at[-1] - 1] if part.role == "state" else at  # as the token that reads it finds it
                content = _content(held[part.full_site], part)[:, at]
                apart[part.name] = max(apart[part.name], float((content[0] - content[1]).abs().max()))
        for part in truth.parts:
            if part.name not in differing:
                assert apart[part.name] < ROUNDING if planted.task_name in EVEN else apart[part.name] < 0.1, part.name
        assert "logits" in differing and apart["logits"] > 1.0
        if planted.task_name != "indirect_object":  # there, a name is still a name, whichever it is
            assert all(apart[part] > 0.01 for part in differing), place


@every_model
def test_edges_lead_from_the_words_to_the_answer(name: str) -> None:
    """Each edge joins two parts, goes forward, and what carries the difference of a pair is a connected way."""
    planted = find_planted(name)
    truth = planted.truth
    known = [part.name for part in truth.parts]
    assert len(set(known)) == len(known) and not {decoy.name for decoy in truth.decoys} & set(known)
    for edge in truth.edges:
        source, target = truth.part(edge.source), truth.part(edge.target)
        below = -1 if source.layer is None else source.layer
        above = planted.config.n_layers if target.layer is None else target.layer
        assert below < above if edge.way == "residual" and "sharpened" not in edge.target else below <= above, edge
    reached = {"logits"}
    while more := {e.source for e in truth.edges if e.target in reached} - reached:
        reached |= more
    assert reached == set(known)
    for place in planted.task.places:
        assert {e.target for e in truth.carrying(place)} | {e.source for e in truth.carrying(place)} == truth.differing(
            place
        )


@pytest.mark.parametrize("name", [name for name in NAMES if "induction" in name])
def test_a_model_is_the_same_again_and_from_a_folder(name: str, tmp_path: Path) -> None:
    model = load(name)
    assert model.digest == load(name).digest
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.digest == model.digest and again.config == model.config
    assert accuracy(name, asked(name), again) == 1.0
    assert again.generate([asked(name)[0].text], max_new_tokens=1) == [" " + asked(name)[0].answer]


def _content(held: torch.Tensor, part: Part) -> torch.Tensor:
    """What a part holds, (B, T, channels[, coordinates])."""
    channels = held[:, :, list(part.channels)]
    return channels[..., list(part.coordinates)] if part.coordinates else channels
