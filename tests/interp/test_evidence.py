"""Where a prompt states its answer is where the facts world put it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path

import pytest
from interp_jobs import asked, reader
from mplat.datasets.prompting.prompts import render
from mplat.datasets.readers.own_prompts import read_questions
from mplat.interp.engine.batches import Batch, Item, spread
from mplat.interp.engine.questions import encode, prompt_table
from mplat.interp.methods.evidence import occurrences, stated_at
from mplat.models import LanguageModel
from mplat.models.decoding.text import encode_text


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return reader()


def test_every_occurrence_is_found() -> None:
    assert occurrences([1, 2, 1, 2, 1], [1, 2]) == [(0, 2), (2, 4)]
    assert occurrences([1, 1, 1], [1, 1]) == [(0, 2), (1, 3)]
    assert occurrences([1, 2], [3]) == occurrences([1], [1, 2]) == occurrences([1], []) == []


def test_the_fact_of_every_question_of_the_facts_world_lies_in_its_evidence(model: LanguageModel) -> None:
    questions = asked(per_level=12, seed=1)
    tokenizer, several = model.tokenizer, 0
    assert tokenizer is not None
    for question, item in zip(questions, encode(model, questions, max_tokens=2048).items, strict=True):
        assert item.fact is not None and item.distance == len(item.prompt) - item.fact[1] > 0
        start, stop = item.fact
        assert tokenizer.decode(list(item.prompt[start:stop])).strip() == question.answers[0]
        text = question.prompt or ""
        sentence = question.context[0].sentences[question.supporting_facts[-1].sentence]
        from_, to = text.index(sentence), text.index(sentence) + len(sentence)
        before = len(tokenizer.decode(list(item.prompt[:start])))
        assert from_ <= before + 1 < to, (sentence, text)
        several += text.count(question.answers[0]) > 1
    assert several > 3  # the answer alone would not have told where


def test_without_evidence_it_is_the_last_place_and_what_is_not_stated_has_none(model: LanguageModel) -> None:
    question = dataclasses.replace(
        asked()[0],
        prompt=" The cup is red. The cup is red.\nQ: What is red?\nA:",
        answers=("cup",),
        supporting_facts=(),
    )
    (item,) = encode(model, [question], max_tokens=100).items
    assert item.fact == occurrences(item.prompt, item.answer)[-1] != occurrences(item.prompt, item.answer)[0]
    (open_,) = encode(model, [dataclasses.replace(question, answers=("zebra",))], max_tokens=100).items
    assert open_.fact is None and open_.distance is None
    last = dataclasses.replace(question, prompt=" The cup")
    read = render(last, partial(encode_text, model.tokenizer), 100)
    assert stated_at(read, "cup") is None  # the prompt's last token needs no memory
    assert stated_at(read, "up") is None and stated_at(read, "cu") is None  # parts of a word


def test_an_answer_is_found_by_its_characters_however_it_is_cut_into_tokens(model: LanguageModel) -> None:
    """Behind a quotation mark or at the beginning of a text its tokens differ from those behind a blank."""
    told = {
        'He said "Karfen" twice.\nQ: What?\nA:': 9,
        "Karfen is far.\nQ: What?\nA:": 0,
        "in (Karfen)\nQ: What?\nA:": 4,
    }
    for text, place in told.items():
        question = dataclasses.replace(asked()[0], prompt=text, answers=("Karfen",), supporting_facts=())
        (item,) = encode(model, [question], max_tokens=100).items
        whole = model.tokenizer(text + " Karfen", return_offsets_mapping=True)
        holding = [i for i, (a, b) in enumerate(whole["offset_mapping"]) if a < place + 6 and b > place]
        assert item.fact == (holding[0], holding[-1] + 1)
        assert [*item.prompt, *item.answer] == whole["input_ids"]


def test_a_prompt_that_ends_with_a_blank_gets_no_second_one(model: LanguageModel) -> None:
    question = dataclasses.replace(asked()[0], prompt="Q: Where?\nA: ", answers=("Karfen",))
    (item,) = encode(model, [question], max_tokens=100).items
    assert [*item.prompt, *item.answer] == model.tokenizer("Q: Where?\nA: Karfen")["input_ids"]


def test_a_worker_receives_the_fact() -> None:
    for item in (Item("a", (1, 2, 3), (2,), (1, 2)), Item("b", (1,), (2,))):
        assert Item.from_json(item.to_json()) == item


def test_items_are_spread_at_equal_steps() -> None:
    items = [Item(str(i), (1,), (1,)) for i in range(10)]
    assert [item.id for item in spread(items, 4)] == ["0", "2", "5", "7"]
    assert spread(items, 99) == items and spread([], 3) == []
    assert Batch(spread(items, 1), None).items[0].id == "0"


def test_a_prompt_of_ones_own_says_where_its_evidence_is(model: LanguageModel, tmp_path: Path) -> None:
    told = " Karfen is far. Sisgat lives in Karfen. Nobody likes Karfen.\nQ: Where does Sisgat live?\nA:"
    record = {"prompt": told, "answers": "Karfen", "evidence": "Sisgat lives in Karfen."}
    (tmp_path / "own.jsonl").write_text(json.dumps(record) + "\n")
    (question,) = read_questions(tmp_path / "own.jsonl")
    data = encode(model, [question], max_tokens=100)
    fact = data.items[0].fact
    assert fact is not None
    before = model.tokenizer(told[: told.index("Karfen. Nobody")].rstrip())["input_ids"]
    assert fact[0] == len(before)
    (row,) = prompt_table(data).to_pylist()
    assert (row["text"], row["evidence_kept"], row["n_cut_tokens"]) == (told, True, 0)
    assert row["prompt_digest"] == hashlib.sha256(told.encode()).hexdigest()
    ids = json.dumps(model.tokenizer(told)["input_ids"], separators=(",", ":"))
    assert row["ids_digest"] == hashlib.sha256(ids.encode()).hexdigest()
