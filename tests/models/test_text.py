"""Texts as a model reads them, against what the tokenizers say of the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.models import load
from mplat.models.decoding.text import (
    added_before,
    decode,
    decode_continuation,
    encode_behind,
    encode_continued,
    encode_text,
)
from tokenizer_zoo import fallback, llama_kind, word_pieces
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = load("tiny-mamba").tokenizer
    assert tokenizer is not None
    return tokenizer


def test_i5_bos_is_added_once_and_eos_not_at_all():
    tokenizer = llama_kind("<s> $A </s>")
    whole = tokenizer("a b")["input_ids"]
    assert whole[0] == 1 and whole[-1] == 2
    assert list(encode_text(tokenizer, "a b").ids) == whole[:-1]
    assert encode_text(tokenizer, "<s>a b").ids.count(1) == 1
    assert encode_text(tokenizer, "").ids == (1,)
    assert encode_text(llama_kind("$A </s>"), "").ids == ()


def test_a_tokenizer_without_bos_gets_none(byte_level):
    assert list(encode_text(byte_level, "Where is it?").ids) == byte_level("Where is it?")["input_ids"]
    assert encode_text(byte_level, "Where is it?").added == 0


@given(prompt=st.text("ab \né", min_size=1, max_size=8), answer=st.text("ab é", min_size=1, max_size=5))
def test_prompt_and_continuation_are_the_tokens_of_both(prompt, answer):
    tokenizer = llama_kind()
    cut = encode_continued(tokenizer, prompt, answer)
    assert list(cut.prompt + cut.continuation) == tokenizer(prompt + answer)["input_ids"]
    if not cut.merged:
        assert decode_continuation(tokenizer, cut.prompt, cut.continuation) == answer


def test_a_shared_token_belongs_to_the_continuation_and_is_told():
    cut = encode_continued(llama_kind(), "b a", "b")
    assert cut.merged is False or cut.continuation
    joined = encode_continued(llama_kind(), "ba", "b")
    assert joined.merged and decode(llama_kind(), joined.continuation) == "ab"


@given(
    prompt=st.text("ab \né", min_size=1, max_size=8),
    answers=st.lists(st.text("ab é", min_size=1, max_size=5), max_size=4),
    kind=st.sampled_from(["<s> $A", "<s> $A </s>", "$A"]),
    says_it=st.booleans(),
)
def test_several_continuations_at_once_are_each_that_of_its_own_where_the_prompt_keeps_its_tokens(
    prompt, answers, kind, says_it
):
    tokenizer = llama_kind(kind)
    prompt = f"<s>{prompt}" if says_it else prompt
    alone = encode_text(tokenizer, prompt)
    found = encode_behind(tokenizer, alone, answers)
    assert len(found) == len(answers)
    for answer, ids in zip(answers, found, strict=True):
        whole = encode_text(tokenizer, prompt + answer).ids
        assert ids == (whole[len(alone.ids) :] if whole[: len(alone.ids)] == alone.ids else ())


def test_a_leading_blank_and_split_characters_survive(byte_level):
    for tokenizer in (llama_kind(), byte_level):
        ids = encode_text(tokenizer, "a b é日").ids
        text = decode(tokenizer, ids[encode_text(tokenizer, "").added :])
        for cut in range(1, len(ids)):
            before = max((decode(tokenizer, ids[:k]).rstrip("\ufffd") for k in range(cut + 1)), key=len)
            assert before + decode_continuation(tokenizer, ids[:cut], ids[cut:]) == decode(tokenizer, ids)
        assert text.endswith("é日")


def test_characters_to_tokens():
    encoded = encode_text(llama_kind(), "a b ab")
    first, last = encoded.tokens_of(4, 6)
    assert decode_continuation(llama_kind(), encoded.ids[:first], encoded.ids[first:last]).strip() == "ab"
    assert encoded.tokens_of(0, 0) == (0, 0)


@given(prompt=st.text("ab \n.", min_size=1, max_size=8), answer=st.text("ab \n", min_size=1, max_size=5))
def test_offsets_that_leave_blanks_out_cut_at_the_same_place(byte_level, prompt, answer):
    trimmed = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(byte_level.backend_tokenizer.to_str()))
    trimmed.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=False)
    assert encode_continued(trimmed, prompt, answer) == encode_continued(byte_level, prompt, answer)


def test_pieces_of_words_are_joined_to_the_words_before():
    tokenizer = word_pieces()
    assert encode_text(tokenizer, "a b").ids == (1, 4, 6) and encode_text(tokenizer, "a b").added == 1
    assert decode_continuation(tokenizer, [1, 4], [5, 6]) == "a b"
    assert decode_continuation(tokenizer, [1, 4], [6, 8]) == " b."
    cut = encode_continued(tokenizer, "a", " b")
    assert (cut.prompt, cut.continuation, cut.merged) == ((1, 4), (6,), False)


def test_a_long_run_of_bytes_is_read_from_the_beginning_of_a_character():
    before = [1, *fallback("日" * 20)]
    for cut in range(1, len(before)):
        whole = (cut - 1) // 3
        assert decode_continuation(llama_kind(), before[:cut], before[cut:]) == "日" * (20 - whole)
    assert decode_continuation(llama_kind(), before, fallback("é")) == "é"


def test_bytes_that_are_no_character_leave_the_text_before_alone():
    tokenizer = llama_kind()
    assert decode_continuation(tokenizer, [1, *fallback("é")], fallback("日")[:2]) == "\ufffd"
    assert decode_continuation(tokenizer, [1, *fallback("é")], [*fallback("日"), fallback("é")[0]]) == "日\ufffd"
    a = tokenizer.convert_tokens_to_ids("a")
    assert decode_continuation(tokenizer, [1, *fallback("é")], [3 + 0xFF, a]) == "\ufffda"


def test_what_a_text_says_itself_counts_as_added():
    tokenizer = llama_kind()
    assert added_before(tokenizer) == (1,)
    said = encode_text(tokenizer, "<s>a b")
    assert (said.ids[0], said.added) == (1, 1) and 1 not in said.ids[1:]
    assert "".join(said.text[a:b] for a, b in said.offsets[1:]) == "a b"
