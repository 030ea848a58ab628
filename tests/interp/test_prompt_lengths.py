"""Prompts of one length have exactly so many tokens, and still ask what they asked."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from interp_jobs import reader, run_step
from model_zoo import nano
from mplat.core.errors import InputError
from mplat.datasets.facts import prompts
from mplat.datasets.facts.names import entities
from mplat.datasets.factual import FactualPrompt, facts_world_prompts
from mplat.datasets.prompting.filler import Filler, told
from mplat.datasets.records import Paragraph, Question, Support
from mplat.interp.engine.lengths import Length, Where
from mplat.interp.engine.questions import encode
from mplat.interp.engine.texts import PlainText, encode_texts
from mplat.interp.methods.prompts import encode_facts
from mplat.interp.steps.fact_tracing import SCHEMA as TRACES
from mplat.models import LanguageModel
from mplat.models.parts.recall import inverse_softplus


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return reader()


NAMES = {name.strip() for pool in entities("eval").values() for name in pool}


def named(text: str) -> set[str]:
    return {name for name in NAMES if re.search(rf"\b{name}\b", text)}


@pytest.mark.parametrize("where", ["front", "between"])
def test_questions_have_the_length_and_their_filler_is_about_nothing_they_name(model, where: Where) -> None:
    asked = prompts(per_level=2, seed=3)
    plain = {item.id: item for item in encode(model, asked, max_tokens=512).items}
    for length in (160, 256):
        found = encode(model, asked, max_tokens=16, length=Length(length, where))
        assert len(found.items) + len(found.excluded) == len(asked) and len(found.items) >= 10
        for item, prompt in zip(found.items, found.prompts, strict=True):
            own = next(question.prompt or "" for question in asked if question.id == item.id)
            before, _, after = own.partition("\n")
            assert prompt.text.endswith(own if where == "front" else f"\n{after}") and len(item.prompt) == length
            filler = prompt.text.removesuffix(own) if where == "front" else prompt.text[len(before) : -len(after) - 1]
            assert filler and not named(filler) & named(own)
            assert (
                length - len(plain[item.id].prompt) < 60 or filler.count(". ") >= 3
            )  # whole sentences of the same world
            distance, was = item.distance, plain[item.id].distance
            added = length - len(plain[item.id].prompt)
            assert was is not None and distance == (was if where == "front" else was + added)
            fact, old = item.fact, plain[item.id].fact
            assert fact is not None and old is not None  # the same tokens state the answer
            assert item.prompt[slice(*fact)] == plain[item.id].prompt[slice(*old)]


def test_a_longer_prompt_goes_on_farther_away(model) -> None:
    asked = prompts(per_level=1, seed=1)[:3]
    short, long = (encode(model, asked, max_tokens=9, length=Length(n)).prompts for n in (160, 320))
    for a, b in zip(short, long, strict=True):
        shared = next(n for n in range(len(a.text)) if b.text.endswith(a.text[n:]))
        assert shared < 160  # characters: but for the sentences that make the shorter one come out exactly


def test_what_is_too_long_or_has_too_little_filler_is_left_out_and_counted(model) -> None:
    asked = prompts(per_level=1, seed=0)
    whole = {item.id: len(item.prompt) for item in encode(model, asked, max_tokens=512).items}
    found = encode(model, asked, max_tokens=512, length=Length(50))
    assert {one.id for one in found.excluded if one.status == "too_long"} == {id_ for id_, n in whole.items() if n > 50}
    own = [Question(f"q{i}", "mine", "", "", answers=("x",), prompt=f"A {i} is b.\nQ: c?\nA:") for i in range(4)]
    with pytest.raises(InputError, match=r"none of the 4 questions can be used; .* the filler of its kind has"):
        encode(model, own, max_tokens=512, length=Length(400))


def test_filler_of_rendered_questions_stands_behind_the_instructions_and_moves_the_evidence(model) -> None:
    def question(number: int, town: str) -> Question:
        told_of = (f"{town} is a town by the sea.", f"The mayor of {town} is Mr. {town}son.")
        context = (Paragraph("", told_of),)
        return Question(
            f"q{number}", "squad", "", f"Who is the mayor of {town}?", context, (f"{town}son",),
            supporting_facts=(Support(0, 1),),
        )  # fmt: skip

    asked = [question(i, town) for i, town in enumerate(("Arden", "Bexley", "Corwen", "Dorset", "Elgin", "Frome"))]
    plain = encode(model, asked, max_tokens=512)
    length = max(len(item.prompt) for item in plain.items) + 40
    found = encode(model, asked, max_tokens=512, length=Length(length))
    assert {len(item.prompt) for item in found.items} == {length} and len(found.items) >= 5
    rendered = {item.id: prompt for item, prompt in zip(plain.items, plain.prompts, strict=True)}
    for item, after in zip(found.items, found.prompts, strict=True):
        before, one = rendered[item.id], asked[int(item.id[1:])]
        told_at = before.text.index(one.context[0].sentences[0])
        assert after.text.startswith(before.text[:told_at]) and after.text.endswith(before.text[told_at:])
        (old,), (new,) = before.evidence, after.evidence
        assert after.text[slice(*new)] == before.text[slice(*old)] == one.context[0].sentences[1]
        assert after.text.count(one.answers[0]) == before.text.count(one.answers[0])


@pytest.mark.parametrize("where", ["front", "between"])
def test_facts_have_the_length_and_keep_their_subject(model, where: Where) -> None:
    facts = facts_world_prompts(4, seed=2)
    plain = {item.id: item for item in encode_facts(model, facts, max_tokens=512).items}
    found = encode_facts(model, facts, max_tokens=16, length=Length(200, where))
    assert found.items and {item.length for item in found.items} == {200}
    for item in found.items:
        was = plain[item.id]
        assert item.tokens[slice(*item.subject)] == was.tokens[slice(*was.subject)] and item.answer == was.answer
        assert item.subject[0] - was.subject[0] == (200 - was.length if where == "front" else 0)


def test_facts_of_other_sets_are_filled_with_each_other(model) -> None:
    towns = ("Arden", "Bexley", "Corwen", "Dorset", "Elgin", "Frome", "Garve", "Holt")
    facts = [
        FactualPrompt(f"f{i}", "mine", f"The river of {town} is the", town, (13, 13 + len(town)), f"{town[:2]}ne")
        for i, town in enumerate(towns)
    ]
    longest = max(item.length for item in encode_facts(model, facts, max_tokens=512).items)
    found = encode_facts(model, facts, max_tokens=512, length=Length(longest + 30))
    assert len(found.items) >= 6 and {item.length for item in found.items} == {longest + 30}
    for item, text in zip(found.items, found.texts, strict=True):
        town = towns[int(item.id[1:])]
        assert text.endswith(f" The river of {town} is the") and text.count(town) == 1 and f"{town[:2]}ne" not in text
    none = encode_facts(model, facts_world_prompts(4), max_tokens=512, length=Length(90, "between"))
    assert {one.status for one in none.excluded} <= {"no_length", "too_long"}
    with pytest.raises(InputError, match="no line ends between the subject and the end"):
        encode_facts(model, facts, max_tokens=512, length=Length(90, "between"))


def test_texts_are_cut_and_shorter_ones_left_out(model) -> None:
    texts = [PlainText("long", "one two three " * 20), PlainText("short", "one")]
    found = encode_texts(model, texts, max_tokens=4, length=12)
    assert [len(item.prompt) for item in found.items] == [12]
    assert [(one.id, one.status) for one in found.excluded] == [("short", "too_short")]
    with pytest.raises(InputError, match="fewer than the length 500"):
        encode_texts(model, texts, max_tokens=4, length=500)


def test_prompts_tell_what_they_do_not_ask() -> None:
    assert told(" A is b. C is d.\nQ: Who is b?\nA:", "A") == ["A is b.", "C is d."]
    assert told("The capital of France is", "Paris") == ["The capital of France is Paris."]


def test_a_name_has_a_capital_wherever_it_stands(model) -> None:
    from mplat.models.decoding.text import encode_text

    filler = Filler(
        ["The cat saw Tom.", "Tom saw the dog.", "Ann saw a cow."], lambda t: encode_text(model.tokenizer, t)
    )
    found = filler.bring(" Where is Tom?", 0, 11, name="x", answers=["cat"])
    assert found.encoded is not None and "Tom saw" not in found.encoded.text and "saw Tom" not in found.encoded.text


def test_a_planted_horizon_shows_up_to_the_length_and_no_farther(model) -> None:
    """Delta is the same at every token: what a coordinate keeps is known, and the prompt is all that bounds it."""
    planted, step, rate = nano("mamba"), 0.05, 0.1
    mixer: Any = planted.blocks[0].mixer
    with torch.no_grad():
        mixer.A_log.copy_((rate * torch.arange(1, mixer.A_log.numel() + 1).view(mixer.A_log.shape)).log())
        mixer.dt_proj.weight.zero_()
        mixer.dt_proj.bias.fill_(inverse_softplus(step))
    nothing = {"fact_tracing": {"": TRACES.empty_table()}}
    asked = prompts(per_level=1, seed=0)[:2]
    for length in (90, 200):
        read = encode(model, asked, max_tokens=512, length=Length(length)).items
        assert read
        items = [dataclasses.replace(item, prompt=tuple(t % 40 for t in item.prompt), answer=(1,)) for item in read]
        lives = run_step("memory_decay", planted, items, layers=[0], upstream=nothing)
        found = lives["half_lives"].to_pylist()
        known = np.floor(np.log(2) / (step * rate * np.arange(1, len(found) + 1)))
        assert known[0] == 138  # censored at 90 and seen at 200
        np.testing.assert_array_equal([row["horizon_tokens"] for row in found], np.minimum(known, length))
        np.testing.assert_array_equal([row["horizon_censored"] for row in found], known >= length)
