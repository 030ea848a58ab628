"""Texts to ids, word by word from a table: the ids of the `tokenizers` library, whatever the text."""

from __future__ import annotations

import copy
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.datasets.tokenizer import ENGLISH, SHIPPED
from mplat.datasets.tokens import encoding_characters, encoding_words
from mplat.datasets.tokens.encoding import Encoder
from mplat.datasets.tokens.encoding_loops import LONGEST, UNKNOWN, class_at, word_end
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

PUBLISHED = {"gpt2": "words", "gpt-neox-20b": "words", "falcon": "library"}
SAMPLE = ENGLISH + "We'll say: it's 'REAL'\n\n\n\t\tif x:\r\n        y = 1_000\u3000\xa0\xa0 "
SAMPLE += "naïve Ωμέγα слово 日本語 ١٢٣ ½ é e\u0301 👩\u200d👧"


def trained(**changed: object) -> Tokenizer:
    """600 tokens of the sample, whose merges reach over any wrong end of a word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # trained on whole lines: tokens of several words, so that a word cut at a wrong place gives other ids
    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    lines = [line for line in SAMPLE.split("\n") if line] + ["".join(chr(c) * 2 for c in (9, 10, 32, 160, 0x3000))] * 9
    whole.train_from_iterator(
        lines * 3, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.model = whole.model
    for name, value in changed.items():
        setattr(tokenizer, name, value)
    return tokenizer


def changed_model(**changed: object) -> models.BPE:
    """All bytes, and a token that no merge makes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        token: number for number, token in enumerate([*alphabet, "was", "s</w>", *(c + "</w>" for c in "ab")])
    }
    return models.BPE(vocabulary, [], **changed)


def like_neox() -> Tokenizer:
    """As GPT-NeoX's is published: NFC, runs of blanks as tokens; and tokens with rules of their own."""
    tokenizer = trained(normalizer=normalizers.NFC())
    tokenizer.add_special_tokens(["<|endoftext|>", "<|end|>"])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(2, 25)])
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, normalized=False), AddedToken("whole", single_word=True)])
    tokenizer.add_tokens([AddedToken("e\u0301", normalized=True), AddedToken("|end", normalized=False)])
    return tokenizer


@cache
def shipped() -> Tokenizer:
    return Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))


@cache
def encoders() -> dict[str, tuple[Tokenizer, Encoder]]:
    made = {"trained": trained(), "like neox": like_neox(), "shipped": shipped()}
    return {name: (tokenizer, Encoder(tokenizer)) for name, tokenizer in made.items()}


def same_as_library(tokenizer: Tokenizer, encoder: Encoder, texts: list[str]) -> None:
    ids, offsets = encoder.ids(texts)
    assert ids.dtype == np.uint32 and offsets.dtype == np.int64 and offsets.size == len(texts) + 1
    assert offsets[0] == 0 and offsets[-1] == ids.size
    for text, begin, end in zip(texts, offsets, offsets[1:], strict=False):
        assert ids[begin:end].tolist() == tokenizer.encode(text, add_special_tokens=False).ids, repr(text)


CHARACTERS = st.characters(exclude_categories=["Cs"])
CONTRACTIONS = "'s 't 're 've 'm 'll 'd 'S 'LL 'r 'l 've's '' ' don't I'll"
ADDED = "<|endoftext|> <|end|> <|end <mask> whole wholes |end e\u0301"
SCRIPTS = "é \u0301 \u0300\u0323 가 \u1100\u1161 ١٢ ½ Ⅷ 12 a1 _ … “ ” 日本 👩\u200d👧 \u200b \u2028 \u0085 \x1c \0"
PIECES = st.sampled_from(f"{CONTRACTIONS} {ADDED} {SCRIPTS}".split(" "))
BLANKS = st.text(st.sampled_from(" \t\n\r\x0b\x0c\x85\xa0\u2003\u3000"), max_size=30)
MIXED = st.lists(st.one_of(PIECES, BLANKS, st.text(CHARACTERS, max_size=6), st.text("ab '1.", max_size=9))).map("".join)
HARD = ["", " ", "  ", "\n", " \n ", "a", "é" * 700, "x" * LONGEST + " y", "x" * (LONGEST + 1) + " y", "1" * 5000]
HARD += [
    "\0",
    "a  ",
    "  a",
    "a \u3000b",
    "\u3000\u3000b",
    "' s",
    "''s",
    "it's'll",
    "<|endoftext|>" * 3,
    "a<|end",
    "x  <mask> y",
]
HARD += [
    "   <|endoftext|>   a",
    "e\u0301<|endoftext|>\u0301",
    "\U0010ffff\U0001f600 \ufeff\ufffe",
    " " * 60 + "def",
    SAMPLE,
]


@pytest.mark.parametrize("name", ["trained", "like neox", "shipped"])
def test_hard_texts(name):
    tokenizer, encoder = encoders()[name]
    assert encoder.way == "words"
    same_as_library(tokenizer, encoder, HARD)


@given(st.lists(st.one_of(MIXED, st.text(CHARACTERS)), max_size=4))
@example([])
def test_any_text(texts):
    for tokenizer, encoder in encoders().values():
        same_as_library(tokenizer, encoder, texts)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tokenizers(shared_data: Path, name):
    tokenizer = Tokenizer.from_file(str(shared_data / "tokenizers" / name / "tokenizer.json"))
    encoder = Encoder(tokenizer)
    assert encoder.way == PUBLISHED[name]
    same_as_library(tokenizer, encoder, HARD)

    @given(MIXED)
    def any_text(text):
        same_as_library(tokenizer, encoder, [text])

    any_text()


def test_a_full_table_is_emptied_and_what_never_fits_goes_to_the_library(monkeypatch):
    monkeypatch.setattr(encoding_words, "WORDS", 20)
    monkeypatch.setattr(encoding_words, "KEY_BYTES", 90)
    rng = np.random.default_rng(0)
    words = SAMPLE.split(" ")
    texts = [" ".join(rng.choice(words, rng.integers(0, 30))) for _ in range(300)]
    for make in (trained, like_neox):
        tokenizer = make()
        encoder = Encoder(tokenizer)
        same_as_library(tokenizer, encoder, texts)
        same_as_library(tokenizer, encoder, texts[::-1])


def test_ids_do_not_depend_on_how_texts_are_grouped(monkeypatch):
    texts = [SAMPLE[i : i + 97] for i in range(0, len(SAMPLE), 53)]
    _, encoder = encoders()["like neox"]
    ids, offsets = encoder.ids(texts)
    again = Encoder(like_neox())
    singly = [again.ids([text]).ids for text in texts]
    monkeypatch.setattr("mplat.datasets.tokens.encoding.CHUNK_BYTES", 300)
    for found in (np.concatenate(singly), again.ids(texts).ids, copy.deepcopy(encoder).ids(texts).ids):
        assert np.array_equal(found, ids)
    assert np.array_equal(np.diff(offsets), [one.size for one in singly])


@pytest.mark.parametrize(
    "changed",
    [
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
        {"normalizer": normalizers.NFKC()},
        {"normalizer": normalizers.Lowercase()},
        {"encode_special_tokens": True},
        {"model": models.BPE({"a": 0, "b": 1, "ab": 2, "?": 3}, [("a", "b")], unk_token="?")},
        {"model": changed_model(ignore_merges=True)},
        {"model": changed_model(end_of_word_suffix="</w>")},
        {"post_processor": processors.TemplateProcessing(single="$A $A", pair="$A $B", special_tokens=[])},
    ],
)
def test_any_other_tokenizer_is_left_to_the_library(changed):
    tokenizer = trained(**changed)
    encoder = Encoder(tokenizer)
    assert encoder.way == copy.deepcopy(encoder).way == "library"
    same_as_library(tokenizer, encoder, HARD)


@pytest.mark.slow
@given(st.data())
def test_merges_in_any_order(data):
    """Merges whose ranks follow no training: those of a token's parts may come later, and several make one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    longer = data.draw(st.lists(st.text("abc", min_size=2, max_size=5), max_size=25, unique=True))
    tokens = {token: number for number, token in enumerate([*alphabet, *longer])}
    merges = [(t[:i], t[i:]) for t in longer for i in range(1, len(t)) if t[:i] in tokens and t[i:] in tokens]
    tokenizer = Tokenizer(models.BPE(tokens, data.draw(st.permutations(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder = Encoder(tokenizer)
    assert encoder.way == "words"
    same_as_library(tokenizer, encoder, data.draw(st.lists(st.text("abc ", max_size=40), max_size=5)))


def test_truncation_and_padding_are_left_out():
    tokenizer = trained()
    expected = tokenizer.encode(SAMPLE).ids
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    assert Encoder(tokenizer).ids([SAMPLE]).ids.tolist() == expected


def test_half_of_a_surrogate_pair_is_named():
    with pytest.raises(InputError, match="text 1 of 2: half of a surrogate pair at character 3"):
        encoders()["trained"][1].ids(["a", "abc\ud800"])


def _pieces(text: str, characters: encoding_characters.Characters) -> list[bytes]:
    """The words of a text, one at a time."""
    data, at, found = np.frombuffer(text.encode(), np.uint8), 0, []
    while at < data.size:
        end = word_end(data, at, data.size, characters.classes)
        assert end > at
        found.append(data[at:end].tobytes())
        at = end
    return found


def _classes_seen(code_points: list[int]) -> None:
    """Compares the words of a text in which each class of a code point shows: in "cca" letters join a, white space
    comes apart, and in "cc1" numbers join 1."""
    characters = encoding_characters.Characters(nfc=False)
    for code_point in {*code_points, ord("a"), ord("1")}:
        characters.learn(code_point) if characters.classes[code_point] == UNKNOWN else None
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "".join(f"{chr(c)}{chr(c)}a{chr(c)}{chr(c)}1" for c in code_points)
    expected = [text[start:end].encode() for _, (start, end) in split.pre_tokenize_str(text)]
    assert _pieces(text, characters) == expected


def test_classes_of_some_code_points():
    rng = np.random.default_rng(1)
    some = {*range(0x600), *rng.integers(0x600, 0xD800, 500).tolist(), *rng.integers(0xE000, 0x110000, 60).tolist()}
    _classes_seen(sorted(some))


@pytest.mark.slow
def test_classes_of_all_code_points():
    """Of the planes 0 to 3 and 14; all others are private or empty, and 60 of their code points are seen above."""
    for first in [*range(0, 0x40000, 0x1000), 0xE0000]:
        _classes_seen([c for c in range(first, first + 0x1000) if not 0xD800 <= c < 0xE000])


def test_what_nfc_keeps():
    """Neither decomposes for good nor combines with a character before it (what Python's Unicode has of them)."""
    second = {chr(c) for c in range(0x1100, 0x1200)}  # hangul jamo
    for c in range(0x110000):
        parts = unicodedata.decomposition(chr(c)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            second.add(chr(int(parts[1], 16)))
    library = normalizers.NFC()
    for first, last in encoding_characters.NFC_KEEPS:
        kept = "".join(map(chr, range(first, last + 1)))
        assert not second & set(kept)
        assert not any(map(unicodedata.combining, kept))
        assert all(unicodedata.is_normalized("NFC", c) for c in kept)
        assert library.normalize_str(kept) == kept


def test_a_character_of_each_length():
    data = np.frombuffer("aé語😀".encode(), np.uint8)
    classes = np.zeros(0x110000, np.uint8)
    for number, c in enumerate("aé語😀"):
        classes[ord(c)] = number
    assert [class_at(data, at, classes) for at in (0, 1, 3, 6)] == [(0, 1), (1, 3), (2, 6), (3, 10)]
