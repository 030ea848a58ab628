"""Chunks: nothing is lost, none is too long, and they end where sentences do."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from mplat.datasets.readers.pile import Document, read
from mplat.models.decoding.text import encode_text
from mplat.refine.chunks import cut, cut_documents
from mplat.refine.kept_texts import kept_records
from planted_models import talking


def pieces(text, length, starts=None):
    """Every character is a token, unless it is said where they begin."""
    return [text[a:b] for a, b in cut(text, range(len(text)) if starts is None else starts, length)]


@given(
    st.text(st.sampled_from("ab. \nAé漢"), max_size=80),
    st.lists(st.integers(0, 80), max_size=90),
    st.integers(1, 9),
)
def test_the_chunks_put_together_are_the_text_and_none_is_too_long(text, places, length):
    starts = sorted(place for place in [0, *places] if place < len(text))
    spans = list(cut(text, starts, length))
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(a < b for a, b in spans)
    for a, b in spans:
        inside = {s for s in starts if a <= s < b}
        assert len(inside) == 1 or sum(a <= s < b for s in starts) <= length, "but for one character of many tokens"


def test_a_chunk_ends_with_the_last_sentence_of_its_second_half_else_with_a_line_else_with_a_word():
    assert pieces("It is so. We go. They came home.", 20) == ["It is so. We go. ", "They came home."]
    assert pieces("one two\nthree four", 12) == ["one two\n", "three four"]
    assert pieces("onetwo three four", 12) == ["onetwo ", "three four"]
    assert pieces("abcdefgh", 3) == ["abc", "def", "gh"]
    # a sentence that ends in the first half would leave a chunk too short to be judged
    assert pieces("So. We went there and", 20) == ["So. We went there ", "and"]


def test_of_a_character_of_many_tokens_none_is_lost():
    assert pieces("漢字a", 2, [0, 0, 0, 1, 1, 1, 2]) == ["漢", "字", "a"]


def test_documents_are_cut_by_the_tokens_of_the_tokenizer_and_never_joined():
    tokenizer = talking().tokenizer
    texts = ["Bekdok lives in Kanbak. " * 30, "Oslo", "é漢字 " * 50]
    chunks = cut_documents([Document(str(i), "S", text) for i, text in enumerate(texts)], tokenizer, 24)
    for number, text in enumerate(texts):
        mine = [chunk for chunk in chunks if chunk.document == number]
        assert "".join(chunk.text for chunk in mine) == text
        assert all(text[chunk.start : chunk.stop] == chunk.text for chunk in mine)
    assert all(len(encode_text(tokenizer, chunk.text).ids) <= 24 for chunk in chunks)
    assert all(chunk.text.endswith(". ") for chunk in chunks if chunk.document == 0)
    assert [chunk.document for chunk in chunks] == sorted(chunk.document for chunk in chunks)


def test_other_fields_stay_with_a_document_that_is_kept_whole(tmp_path):
    records = [
        {"text": "Bekdok lives in Kanbak. " * 30, "answers": [[1, 2]]},
        {"text": "Oslo", "answers": [[0, 4]], "n": 1},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    documents = read(tmp_path / "a.jsonl").documents
    chunks = cut_documents(documents, talking().tokenizer, 24)
    kept = list(kept_records(chunks, [i > 0 for i in range(len(chunks))], documents))
    assert [set(record) for record in kept] == [{"text", "meta"}, {"text", "answers", "n", "meta"}]
    whole = list(kept_records(chunks, [True] * len(chunks), documents))
    assert [{k: v for k, v in record.items() if k != "meta"} for record in whole] == records
