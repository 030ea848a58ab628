"""A prompt's tokens are the tokens of its text, whole or cut, and what holds no evidence is cut first."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.datasets.prompting import templates
from mplat.datasets.prompting.context_layout import cut_order, without
from mplat.datasets.prompting.prompts import render, rendered
from mplat.datasets.records import Paragraph, Question, Support
from mplat.models.decoding.text import Encoded, encode_text
from real_records import FILES, published, real_questions
from tokenizer_zoo import llama_kind
from transformers import PreTrainedTokenizerFast

CONTEXT = (
    Paragraph("", ("Ann is old.", "Bob is young.", "Both sing.")),
    Paragraph("Rome", ("Rome is a town.", "It has hills.")),
    Paragraph("Oslo", ("Oslo lies by the sea.", "Eve lives there.", "She sings.", "She is 40.")),
    Paragraph("", ("Nobody knows.",)),
)


def question(*places: tuple[int, int], dataset: str = "musique", **changes: object) -> Question:
    made = Question("q", dataset, "dev", "Where does Eve live?", CONTEXT, ("Oslo",), metric="squad_v1")
    return dataclasses.replace(made, supporting_facts=tuple(Support(*place) for place in places), **changes)


def characters(text: str) -> list[int]:
    return [ord(c) for c in text]


def told(prompt) -> str:
    """The context as it is read."""
    return prompt.text.partition("\n\n")[2].rpartition("\n\nQuestion")[0]


def read_by(tokenizer: PreTrainedTokenizerFast, asked: Question, budget: int, name: str | None = None):
    chosen = None if name is None else templates.find(name)
    return render(asked, partial(encode_text, tokenizer), budget, chosen)


@pytest.mark.parametrize("name", templates.names())
@pytest.mark.parametrize("tokens", ["gpt-neox-20b", "gpt2", "falcon"])
def test_the_ids_are_those_of_the_text_with_published_tokenizers(shared_data: Path, tokens: str, name: str) -> None:
    tokenizer = published(shared_data, tokens)
    whole = read_by(tokenizer, question((2, 1)), 1000, name)
    for budget in range(len(whole.tokens), 60, -3):
        read = read_by(tokenizer, question((2, 1)), budget, name)
        assert read.tokens == tokenizer(read.text)["input_ids"] and len(read.tokens) <= budget
        assert read.cut_tokens == len(whole.tokens) - len(read.tokens) < len(whole.tokens) - budget + 4
        assert read.digest == hashlib.sha256(read.text.encode()).hexdigest()
        ids = json.dumps(tokenizer(read.text)["input_ids"], separators=(",", ":"))
        assert read.ids_digest == hashlib.sha256(ids.encode()).hexdigest()


@pytest.mark.parametrize("name", FILES)
def test_real_questions_are_read_as_the_tokens_of_their_texts(shared_data: Path, name: str) -> None:
    tokenizer = published(shared_data, "gpt-neox-20b")
    for asked in real_questions(shared_data, name, 4):
        for budget in (120, 512):
            read = read_by(tokenizer, asked, budget)
            assert read.tokens == tokenizer(read.text)["input_ids"] and 0 < len(read.tokens) <= budget
            assert (read.cut_tokens == 0) == (read.text == rendered(asked, templates.find(name)).layout.text)
            known = [" ".join(asked.context[s.paragraph].sentences[s.sentence].split()) for s in asked.supporting_facts]
            found = [" ".join(read.text[a:b].split()) for a, b in read.evidence]
            assert [sentence for sentence in known if sentence in found] == found
            assert read.evidence_kept is ((len(found) == len(known)) if known else None)


def test_what_the_tokenizer_adds_is_there_once_and_counts() -> None:
    tokenizer = llama_kind("<s> $A </s>")
    whole = read_by(tokenizer, question((2, 1)), 10_000)
    assert whole.tokens == tokenizer(whole.text)["input_ids"][:-1] and whole.tokens.count(1) == 1
    cut = read_by(tokenizer, question((2, 1)), len(whole.tokens) - 5)
    assert cut.tokens == tokenizer(cut.text)["input_ids"][:-1] and cut.cut_tokens == 5 and cut.tokens[0] == 1
    made = read_by(tokenizer, question(prompt="<s>ab"), len(tokenizer("ab")["input_ids"]) - 1)
    assert made.status == "ok" and made.tokens.count(1) == 1


def test_paragraphs_without_evidence_go_first_then_sentences_then_evidence() -> None:
    asked = question((1, 0), (2, 1))
    whole = render(asked, characters, 10_000)
    assert whole.evidence_kept is True and whole.cut_tokens == 0
    lines = told(whole).split("\n")

    def at(lost: int):
        return render(asked, characters, len(whole.tokens) - lost)

    assert told(at(3)).split("\n") == [lines[0][3:], *lines[1:]]
    first = len(lines[0]) + 1
    assert told(at(first)).split("\n") == lines[1:]
    both = first + len("\nNobody knows.")
    assert told(at(both)).split("\n") == lines[1:3]
    assert told(at(both + len(" It has hills."))).split("\n") == ["Rome: Rome is a town.", lines[2]]
    least = both + len(" It has hills.") + len("Oslo lies by the sea. ") + len(" She sings. She is 40.")
    assert told(at(least)) == "Rome: Rome is a town.\nOslo: Eve lives there." and at(least).evidence_kept is True
    assert told(at(least + 1)) == "ome: Rome is a town.\nOslo: Eve lives there." and at(least + 1).evidence_kept is True
    lost = at(least + 8)
    assert told(lost) == "me is a town.\nOslo: Eve lives there." and lost.evidence_kept is False
    assert [lost.text[a:b] for a, b in lost.evidence] == ["Eve lives there."]


def test_a_question_without_evidence_is_cut_from_the_left_and_says_that_none_is_known() -> None:
    for places in ((), ((9, 9),)):  # named nowhere, or where there is nothing
        whole = render(question(*places), characters, 10_000)
        cut = render(question(*places), characters, len(whole.tokens) - 40)
        assert told(cut) == told(whole)[40:] and cut.evidence_kept is None and cut.evidence == ()


@given(
    places=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4),
    name=st.sampled_from(templates.names()),
    share=st.floats(0, 1),
)
def test_what_is_kept_stands_in_its_order_and_evidence_is_what_it_says(places, name, share) -> None:
    asked = question(*places, dataset=name)
    layout, context = rendered(asked, templates.find(name))
    known = [place for place in places if place in layout.sentences]
    order = cut_order(layout, context, known)
    covered = sorted(order)
    assert (covered[0][0], covered[-1][1]) == context and all(a[1] == b[0] for a, b in pairwise(covered))
    fixed = len(layout.text) - (context[1] - context[0])
    read = render(asked, characters, fixed + round(share * (context[1] - context[0])))
    assert read.status == "ok" and len(read.text) == fixed + round(share * (context[1] - context[0]))
    rest = iter(layout.text)
    assert all(c in rest for c in read.text), "characters are left out, none is moved"
    sentences = {" ".join(s.split()) for p in CONTEXT for s in p.sentences}
    assert {read.text[a:b] for a, b in read.evidence} <= sentences
    if known:
        assert read.evidence_kept == (len(read.evidence) == len(known))
    assert without(layout.text, order) == layout.text[: context[0]] + layout.text[context[1] :]


def test_what_a_token_spans_is_cut_between_characters(shared_data: Path) -> None:
    """A character of several tokens goes as a whole, and no more than need be."""
    tokenizer = published(shared_data, "gpt2")
    asked = question(context=(Paragraph("", ("日本語のテキストは長い文です。" * 10,)),))
    whole = read_by(tokenizer, asked, 10_000)
    for lost in (1, 2, 3, 50):
        cut = read_by(tokenizer, asked, len(whole.tokens) - lost)
        assert cut.tokens == tokenizer(cut.text)["input_ids"] and "\ufffd" not in cut.text
        assert lost <= cut.cut_tokens < lost + 4


def test_ids_without_places_are_cut_to_the_budget_too() -> None:
    def words(text: str) -> list[int]:
        return [len(word) for word in text.split()]

    whole = render(question((2, 1)), words, 1000)
    for budget in range(25, len(whole.tokens)):
        cut = render(question((2, 1)), words, budget)
        assert cut.tokens == words(cut.text) and budget - 4 < len(cut.tokens) <= budget


def test_a_ready_made_prompt_knows_its_evidence() -> None:
    made = question((2, 1), prompt=" Eve lives there. Eve lives there.\nQ: Where?\nA:")
    read = render(made, characters, 100)
    assert read.evidence == ((18, 34),) and read.evidence_kept is True
    assert isinstance(read.encoded, Encoded)
    assert render(dataclasses.replace(made, supporting_facts=()), characters, 100).evidence_kept is None
