"""Factual prompts in tokens: where the subject is, what continues them, and the same prompt about another subject."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mplat.core.errors import InputError, UsageError
from mplat.datasets.factual import FactualPrompt, facts_world_prompts, locate, read_factual, swap_subjects
from mplat.models import load
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["The", "home", "of", "Ann", "Lee", "Bob", "Ray", "Cid", "is", "Rome", "Oslo", "Bonn", "é"]


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="The"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="module")
def pieces():
    return load("tiny-mamba").tokenizer


def prompt(subject: str, answer: str, relation: str = "home") -> FactualPrompt:
    return FactualPrompt(
        subject, "test", f"The home of {subject} is", subject, (12, 12 + len(subject)), answer, relation
    )


def test_the_subjects_tokens_are_those_that_hold_its_characters(words) -> None:
    found = locate(prompt("Ann Lee", "Rome"), words)
    assert found.tokens == (0, 1, 2, 3, 4, 8) and found.subject == (3, 5)
    assert found.answer == (9,) and found.other_answer is None
    other = FactualPrompt("a", "test", "Ann is", "Ann", (0, 3), "Rome", other_answer="Oslo Bonn")
    assert locate(other, words).other_answer == (10, 11)


def test_pieces_with_leading_blanks_and_many_bytes_are_found_too(pieces) -> None:
    for text, subject in [
        (" Bekdok has a boss", "Bekdok"),
        ("Über Ünïcode 漢字 in", "Ünïcode 漢字"),
        ("a-Ray-b", "Ray"),
    ]:
        start = text.index(subject)
        found = locate(FactualPrompt("a", "test", text, subject, (start, start + len(subject)), "x"), pieces)
        inside = pieces.decode(found.tokens[slice(*found.subject)])
        assert subject in inside and len(inside.strip("- ")) == len(subject)
        assert pieces.decode(found.tokens) == text and pieces.decode(found.answer) == " x"


def test_what_continues_a_prompt_is_read_in_its_place(pieces) -> None:
    found = locate(FactualPrompt("a", "test", " Bekdok lives in", "Bekdok", (1, 7), "Kanbak"), pieces)
    assert list(found.answer) == pieces(" Kanbak")["input_ids"]
    assert [*found.tokens, *found.answer] == pieces(" Bekdok lives in Kanbak")["input_ids"]


def test_real_prompts_are_located_in_pieces(shared_data: Path, pieces) -> None:
    for name in ("known_1000", "counterfact", "lre_relations", "pararel"):
        for p in read_factual(name, shared_data / name).prompts[:300]:
            found = locate(p, pieces)
            assert pieces.decode(found.tokens[slice(*found.subject)]).strip() == p.subject, p
            assert pieces.decode(found.answer) == " " + p.answer


def test_swapped_subjects_have_as_many_tokens_and_another_answer(words) -> None:
    prompts = [
        prompt("Ann Lee", "Rome"), prompt("Bob", "Rome"), prompt("Cid", "Oslo"), prompt("Bob Ray", "Oslo"),
        prompt("Ray", "Bonn", "other"),
    ]  # fmt: skip
    swapped = swap_subjects(prompts, words)
    texts = [None if s is None else words.decode(s.tokens) for s in swapped]
    assert texts == [
        "The home of Bob Ray is",  # as many tokens; Cid has one only
        "The home of Cid is",
        "The home of Bob is",
        "The home of Ann Lee is",
        None,  # the only one of its relation
    ]
    for p, s in zip(prompts, swapped, strict=True):
        if s is not None:
            here = locate(p, words)
            assert s.subject == here.subject and len(s.tokens) == len(here.tokens) and s.answer == here.answer


def test_the_facts_world_states_one_answer_and_says_where(pieces) -> None:
    made = facts_world_prompts(60, seed=3, n_facts=5)
    assert made == facts_world_prompts(60, seed=3, n_facts=5) != facts_world_prompts(60, seed=4, n_facts=5)
    assert len({p.prompt.split("\nQ: ")[1] for p in made}) == 60 and len({p.id for p in made}) == 60
    for p in made:
        context, question = p.prompt.split("\nQ: ")
        assert question.endswith("\nA:") and p.subject in question and p.subject_span[1] <= len(context)
        start = context.rfind(". ", 0, p.subject_span[0]) + 2 if ". " in context[: p.subject_span[0]] else 1
        statement = context[start:].split(". ")[0]
        assert p.subject in statement and p.answer in statement
        assert context.count(". ") == 4
        assert pieces.decode(locate(p, pieces).tokens) == p.prompt
    asked = facts_world_prompts(60, seed=3, n_facts=5, mention="question")
    assert [p.prompt for p in asked] == [p.prompt for p in made]
    assert all(p.subject_span[0] > p.prompt.index("\nQ: ") for p in asked)


def test_the_distance_between_statement_and_question_is_chosen() -> None:
    for behind in range(4):
        for p in facts_world_prompts(20, n_facts=4, behind=behind):
            context = p.prompt.split("\nQ: ")[0]
            assert context[p.subject_span[1] :].count(". ") == behind


@torch.no_grad()
def test_a_shipped_model_knows_what_is_stated(pieces) -> None:
    model = load("tiny-mamba")
    right = 0
    for p in facts_world_prompts(40, seed=1):
        found = locate(p, pieces)
        right += int(model(torch.tensor([found.tokens]))[0, -1].argmax()) == found.answer[0]
    assert right >= 36


def test_wrong_arguments_say_what_would_be_right(words) -> None:
    for arguments, told in [
        ({"n": 0}, "at least 1"),
        ({"n_facts": 0}, "at least 1"),
        ({"behind": 4}, "it can be 0 to 3"),
        ({"mention": "answer"}, "valid: question, statement"),
        ({"split": "dev"}, "eval, train"),
        ({"n": 10**6}, "different questions"),
    ]:
        with pytest.raises(UsageError, match=told):
            facts_world_prompts(**{"n": 3, **arguments})
    joined = Tokenizer(models.WordLevel({"Ann is Rome": 0, "Ann is": 1}, unk_token="Ann is"))
    joining = PreTrainedTokenizerFast(tokenizer_object=joined)
    with pytest.raises(InputError, match="joins the end of the prompt"):
        locate(FactualPrompt("a", "test", "Ann is", "Ann", (0, 3), "Rome"), joining)
    with pytest.raises(UsageError, match="fast tokenizer"):
        locate(prompt("Ann", "Rome"), object())
