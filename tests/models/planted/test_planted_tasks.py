"""Planted tasks: their prompts, how their models are named and loaded, and what is refused."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from mplat.core.errors import InputError, UsageError
from mplat.models import load
from mplat.models.decoding.text import encode_text
from mplat.models.files import catalog
from mplat.models.planted import Prompt, find_planted, is_planted, planted_names
from mplat.models.planted.plan import Plan
from mplat.models.planted.task import TASKS, Task

every_task = pytest.mark.parametrize("name", TASKS.names())


@every_task
def test_prompts_come_from_their_seed_and_every_answer_is_as_frequent(name: str) -> None:
    task = TASKS.get(name)
    prompts = task.prompts(120, seed=4)
    assert prompts == task.prompts(120, seed=4) != task.prompts(120, seed=5)
    assert prompts[:30] == task.prompts(30, seed=4)
    assert len({prompt.text for prompt in prompts}) == 120
    counts = Counter(prompt.answer for prompt in prompts)
    assert set(counts) == set(task.plan("mamba").answers) and max(counts.values()) - min(counts.values()) <= 1
    known = {word.text for word in task.plan("mamba").words}
    for prompt in prompts:
        assert {*prompt.words, prompt.answer} <= known and prompt.text.split() == list(prompt.words)
        assert set(prompt.places) >= set(task.places) and max(prompt.places.values()) == len(prompt.words) - 1
    assert task.meaning.endswith(".") and len(task.meaning) < 120


@every_task
def test_a_place_of_a_plan_is_a_place_of_its_prompts(name: str) -> None:
    for planted in (find_planted(known) for known in planted_names() if find_planted(known).task_name == name):
        (prompt,) = planted.prompts(1)
        assert {place for part in planted.truth.parts for place in part.at} <= set(prompt.places)


@every_task
def test_what_cannot_be_asked_is_refused(name: str) -> None:
    task = TASKS.get(name)
    with pytest.raises(UsageError, match="ask for at least 1"):
        task.prompts(0)
    with pytest.raises(UsageError, match="no pairs by 'valeu'.*valid: "):
        task.pairs(1, place="valeu")
    with pytest.raises(UsageError, match="no place 'relais'"):
        task.prompts(1)[0].at("relais")


def test_a_planted_model_is_named_like_its_task_and_its_architecture() -> None:
    entries = {entry.name: entry for entry in catalog.entries()}
    for name in planted_names():
        assert is_planted(name) and entries[name].needs_network is False
        assert entries[name].n_parameters == load(name).n_parameters
        assert catalog.shape(name) == find_planted(name).config
    assert not is_planted("planted-induction") and not is_planted("tiny-mamba") and not is_planted(None)
    with pytest.raises(UsageError, match="did you mean 'planted-induction-mamba2'"):
        find_planted("planted-inducton-mamba2")
    with pytest.raises(InputError, match="did you mean 'planted-induction-mamba'"):
        load("planted-inducton-mamba")
    with pytest.raises(UsageError, match=r"no part 'match.stat'; did you mean 'match.state'"):
        find_planted("planted-induction-mamba").truth.part("match.stat")


def test_a_word_that_a_planted_model_does_not_know_is_an_error() -> None:
    tokenizer = load("planted-copy-mamba").tokenizer
    assert tokenizer is not None and encode_text(tokenizer, "the anna so ?").ids == (8, 0, 14, 15)
    with pytest.raises(InputError, match="cannot read 'the zebra so"):
        encode_text(tokenizer, "the zebra so ?")
    with pytest.raises(InputError, match="more tokens|has 1024 tokens"):
        load("planted-copy-mamba", tokenizer="tiny-mamba")


def test_a_task_is_found_once_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the architectures that cannot carry it out are refused with its reason."""

    class Echo(Task):
        """The first word again."""

        name = "echo"
        cannot = {"mamba2": "it has no echo", "striped_hyena": "it has none either"}

        def plan(self, architecture: str) -> Plan:
            return TASKS.get("copy").plan(architecture)

        def sample(self, rng: Random, answer: str) -> Prompt:
            return TASKS.get("copy").sample(rng, answer)

    monkeypatch.setitem(TASKS._entries, "echo", (__name__, Echo()))
    assert [name for name in planted_names() if "echo" in name] == ["planted-echo-mamba"]
    assert load("planted-echo-mamba").config == find_planted("planted-copy-mamba").config
    with pytest.raises(UsageError, match="there is no planted-echo-mamba2: it has no echo"):
        load("planted-echo-mamba2")
    find_planted.cache_clear()
