"""What is scored behind a prompt: the answer, and wrong answers that the question itself offers."""

from __future__ import annotations

from functools import partial

import pytest
from mplat.core.errors import InputError
from mplat.datasets import facts
from mplat.datasets.facts.names import entities
from mplat.datasets.prompting.prompts import Prompt, render
from mplat.datasets.records import Question, source_fields
from mplat.eval.choices import MOST, NO_ANSWER, NO_TOKENS, choices, distractors
from mplat.models.decoding.text import decode, encode_text
from planted_models import TOKENIZER
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER), local_files_only=True)


def own(prompt: str = "The capital of France is", **fields) -> Question:
    answers = tuple(fields.pop("answers", ("Paris",)))
    return Question("q", "own", "", "", answers=answers, metric="squad_v1", prompt=prompt,
                    source_fields=source_fields(**fields))  # fmt: skip


def prompt_of(tokenizer: PreTrainedTokenizerFast, question: Question) -> Prompt:
    return render(question, partial(encode_text, tokenizer), 2048)


def test_in_the_facts_world_they_are_as_many_names_of_the_kind_asked_for_on_every_level_stated_ones_first():
    kind_of = {name.strip(): kind for kind, names in entities("eval").items() for name in names}
    for question in facts.prompts(per_level=20, seed=3):
        found = distractors(question)
        assert len(set(found)) == MOST and question.answers[0] not in found
        assert {kind_of[name] for name in found} == {kind_of[question.answers[0]]}
        text = f" {question.prompt}".replace(".", " ").replace("?", " ").replace("'", " ").replace("\n", " ")
        stated = [f" {name} " in text for name in found]
        assert stated == sorted(stated, reverse=True), "no other name stands before a stated one"
        others = sum(f" {name} " in text for name, kind in kind_of.items()
                     if kind == kind_of[question.answers[0]] and name != question.answers[0])  # fmt: skip
        assert sum(stated) == min(MOST, others)


def test_which_are_taken_follows_from_the_question_alone():
    asked = facts.prompts(per_level=8, seed=3)
    first = {q.id: distractors(q) for q in asked}
    assert {q.id: distractors(q) for q in reversed(facts.prompts(per_level=8, seed=3))} == first
    assert len({names for names in first.values()}) > len(first) // 2, "not the same names everywhere"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"choices": ["Rome", "Paris", "Oslo "]}, ("Rome", "Oslo")),
        ({"choices": {"text": ["paris", "Rome"], "label": ["A", "B"]}}, ("Rome",)),
        ({"distractors": ["Rome"], "choices": ["Rome", "Bern"]}, ("Rome", "Bern")),
        ({}, ()),
    ],
)
def test_a_prompt_of_ones_own_brings_its_choices(fields, expected):
    assert distractors(own(**fields)) == expected


@pytest.mark.parametrize("wrong", ["Rome", [1, 2], ["Rome", " "], {"text": "Rome"}])
def test_choices_that_are_no_texts_are_refused(wrong):
    with pytest.raises(InputError, match="question 'q': 'choices' must be a list of texts"):
        distractors(own(choices=wrong))


def test_tokens_are_those_of_prompt_and_answer_together(tokenizer):
    question = own("Q: Where does Bek live?\nA:", answers=["Karfen"], choices=["Nornik", "Karfen"])
    prompt = prompt_of(tokenizer, question)
    found = choices(question, prompt, tokenizer, "\n")
    whole = [encode_text(tokenizer, f"{question.prompt} {name}\n").ids for name in ("Karfen", "Nornik")]
    assert [(*prompt.tokens, *ids) for ids in (found.answer, *found.distractors)] == whole
    assert (found.status, found.n_bytes) == ("ok", len(" Karfen\n"))
    assert decode(tokenizer, found.answer) == " Karfen\n"
    assert found.tokens == sum(len(ids) - len(prompt.tokens) - 1 for ids in whole)


def test_what_cannot_be_scored_has_a_status(tokenizer):
    mute = own(answers=[])
    assert choices(mute, prompt_of(tokenizer, mute), tokenizer, "\n").status == NO_ANSWER
    guessed = facts.prompts(per_level=1, seed=0, controls=["deleted"])[-1]
    assert guessed.control and choices(guessed, prompt_of(tokenizer, guessed), tokenizer, "\n").status == NO_ANSWER
    shared = own("Q: Who is it?\nA: Bekd", answers=["ok"])
    other = prompt_of(tokenizer, shared)
    other = other._replace(encoded=other.encoded._replace(ids=(1, 2, 3)))  # other tokens than where more follows
    assert choices(shared, other, tokenizer, "\n").status == NO_TOKENS


def test_where_nothing_answers_what_the_prompt_asks_to_write_is_the_answer(tokenizer):
    question = Question("q", "squad_v2", "dev", "Who?", answerable=False, metric="squad_v2")
    prompt = prompt_of(tokenizer, question)
    found = choices(question, prompt, tokenizer, "\n", "unanswerable")
    assert decode(tokenizer, found.answer).strip() == "unanswerable"
    assert choices(question, prompt, tokenizer, "\n").status == NO_ANSWER, "its template asks for nothing"
