"""Cutting text into sentences: nothing is lost, and the cuts are where a reader would make them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from mplat.datasets.readers.sentences import split_sentences

PROSE = st.lists(
    st.sampled_from(
        ["Mr. ", "U.S. ", "The ", "end. ", "3.5 ", "Why? ", '"No!" ', "(see [12]) ", "x\n\n", "e.g. ", "。", "A. "]
    ),
    max_size=30,
).map("".join)


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith met Dr. Jones.| They talked.",
        "J. R. R. Tolkien wrote it.| He was English.",
        "It cost 3.5 million dollars.| Nobody paid.",
        "The U.S. Army left the U.S.| The war was over.",
        "Why?| Because!| Really.",
        'He said "Stop."| She did not.',
        'It was called "Over Here!" (1974) and it failed.',
        "He lived at No. 5 St. James St. in London.| No.| Yes.",
        "It was signed (in 1990).| Then it ended.",
        "He was born c. 1900 in Rome.| Died there.",
        "The sum rose.[3]| It fell later.",
        "See Fig. 3 and vol. 2.| Vol. 4 is lost.",
        "On 3. May it rained.| The score was 12.| The rest came.",
        "Apple Inc. was founded in 1976.| It grew.",
        "They sell apples, pears, etc.| The rest is imported.",
        "Gravity is strong...| Very strong.",
        "a list of i.e. this and e.g. that",
        "One paragraph\n\n|Another paragraph",
        "carbon dioxide (CO\n2) is a gas.| It is heavy.",
        "東京は大きい。|人が多い。",
        "यह एक है। |वह दो है।",
        "by A. A. Milne.| A house stood there.",
        "Yahoo! is a company.",
        "\u201cHello.\u201d| \u2018Bye.\u2019",
    ],
)
def test_cuts_are_where_a_reader_would_make_them(text: str) -> None:
    pieces = text.replace("| ", " |").split("|")  # white space belongs to the sentence before it
    assert list(split_sentences("".join(pieces))) == pieces


def test_empty_and_blank_texts() -> None:
    assert split_sentences("") == ()
    assert split_sentences(" \n\n ") == (" \n\n ",)
    assert split_sentences("\n\nHello there. \n\n") == ("\n\nHello there. \n\n",)


@given(st.one_of(st.text(), PROSE))
def test_joining_the_sentences_gives_the_text_back(text: str) -> None:
    pieces = split_sentences(text)
    assert "".join(pieces) == text
    assert all(piece.strip() for piece in pieces) or not text.strip()


@given(PROSE)
def test_no_word_is_cut_in_two_where_words_are_separated_by_blanks(text: str) -> None:
    text = text.replace("。", ". ")
    assert [word for piece in split_sentences(text) for word in piece.split()] == text.split()


@pytest.mark.parametrize("unit", [".", " ", "\n ", "U.S. Army ", "! ", ")", '."', "\n", ".[", "J. ", ".[1]", "a"])
def test_time_grows_with_the_length_only(unit: str) -> None:
    text = unit * (100_000 // len(unit)) + " x. Y"
    start = time.process_time()
    assert "".join(split_sentences(text)) == text
    assert time.process_time() - start < 2.0


def test_cuts_agree_with_those_that_hotpotqa_gives(shared_data: Path) -> None:
    packed = (shared_data / "hotpotqa" / "hotpot_distractor.jsonl.zst").read_bytes()
    text = zstandard.ZstdDecompressor().stream_reader(packed).read().decode()
    both = ours = theirs = 0
    for line in text.split("\n")[:150]:
        for _, sentences in json.loads(line)["context"]:
            paragraph = "".join(sentences)
            given_cuts, found_cuts = starts(sentences, paragraph), starts(split_sentences(paragraph), paragraph)
            both += len(given_cuts & found_cuts)
            theirs += len(given_cuts)
            ours += len(found_cuts)
    assert theirs > 3_000
    assert both / ours > 0.98 and both / theirs > 0.97


def starts(sentences: list[str] | tuple[str, ...], paragraph: str) -> set[int]:
    """The first visible characters of all sentences but the first."""
    found, position = set(), 0
    for sentence in sentences:
        if position and (visible := re.compile(r"\S").search(paragraph, position)):
            found.add(visible.start())
        position += len(sentence)
    return found
