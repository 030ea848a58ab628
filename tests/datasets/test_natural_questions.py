"""Natural Questions: every form, and annotations that mark the same words before and after a conversion."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.datasets.data_set import get
from mplat.datasets.readers.natural_questions import NaturalQuestions
from mplat.datasets.readers.nq_page import Token, layout_of, page_of, token_span
from mplat.datasets.reading import content_id, read
from mplat.datasets.records import Paragraph, Support

FULL = NaturalQuestions.sample.values[0]
TOKENS = [token["token"] for token in FULL["document_tokens"]]
LONG, NO_LONG, _ = (annotation["long_answer"] for annotation in FULL["annotations"])
(SHORT,) = FULL["annotations"][0]["short_answers"]
SIMPLE = {
    "example_id": -17,
    "question_text": FULL["question_text"],
    "document_text": " ".join(TOKENS),
    "document_url": FULL["document_url"],
    "annotations": FULL["annotations"],
}
OPEN = {"question": "who is old", "answer": ["Rome", "Roma"]}
GOLD = {
    "question": "who is old",
    "answers": ["Rome"],
    "ctxs": [
        {"title": "M", "text": "Milan  is not Rome.", "hasanswer": True, "isgold": False},
        {"title": "R", "text": "Cats. The city ROME is old.", "hasanswer": True, "isgold": True},
    ],
    "nq_annotated_gold": {"title": "R"},
}
BOOK = {
    "instructions": ["who has dogs", "who has cats"],
    "outputs": ["Rome", "the table"],
    "input": " ".join(TOKENS),
    "source": "natural_question",
    "evaluation": "f1",
}


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_a_page_is_the_text_between_the_marks_of_blocks(tmp_path: Path) -> None:
    (question,) = read("natural_questions", lines(tmp_path / "dev.jsonl", FULL)).questions
    assert [paragraph.sentences for paragraph in question.context] == [
        ("Rome - Wikipedia",),
        ("Rome",),
        ("Rome is old . ", "It has 3 dogs ."),
        ("Cats 2",),
    ]
    assert {paragraph.title for paragraph in question.context} == {"Rome"}
    assert question.answers == ("3 dogs", "yes") and question.answerable is True and question.id == "-17"
    assert question.supporting_facts == (Support(2, 1),)
    assert question.source() == {
        "form": "page",
        "url": "https://example.org/Rome",
        "annotations": [
            {"id": "1", "long": [4, 13], "short": [[10, 12]], "yes_no": "NONE"},
            {"id": "2", "long": None, "short": [], "yes_no": "NONE"},
            {"id": "3", "long": [4, 13], "short": [], "yes_no": "YES"},
        ],
    }


def test_the_simplified_record_is_the_same_question(tmp_path: Path) -> None:
    full, simple = read(
        "natural_questions", lines(tmp_path / "dev.jsonl", FULL, {**SIMPLE, "example_id": 18})
    ).questions
    assert (simple.context, simple.answers, simple.supporting_facts) == (
        full.context,
        full.answers,
        full.supporting_facts,
    )
    assert simple.source() == full.source() and simple.id == "18"


def test_an_annotator_who_gave_yes_and_spans_gave_two_answers(tmp_path: Path) -> None:
    first, *others = FULL["annotations"]
    record = {**FULL, "annotations": [{**first, "yes_no_answer": "NO"}, *others]}
    (question,) = read("natural_questions", lines(tmp_path / "dev.jsonl", record)).questions
    assert question.answers == ("no", "3 dogs", "yes") and question.supporting_facts == (Support(2, 1),)


def test_long_answers_are_the_evidence_where_nobody_gave_a_short_one(tmp_path: Path) -> None:
    long_only = [{"annotation_id": 1, "long_answer": LONG, "short_answers": [], "yes_no_answer": "NONE"}]
    nothing = [{"annotation_id": 1, "long_answer": NO_LONG, "short_answers": [], "yes_no_answer": "NONE"}]
    records = [
        {**SIMPLE, "example_id": "a", "annotations": long_only},
        {**SIMPLE, "example_id": "b", "annotations": nothing},
        {key: value for key, value in {**SIMPLE, "example_id": "c"}.items() if key != "annotations"},
    ]
    reading = read("natural_questions", lines(tmp_path / "test.jsonl", *records))
    assert [question.answers for question in reading.questions] == [(), (), ()]
    assert [question.answerable for question in reading.questions] == [True, False, None]
    assert [question.gold() for question in reading.questions] == [None, None, None]
    assert reading.questions[0].supporting_facts == (Support(2, 0), Support(2, 1))
    assert reading.report.notes == {"records without annotations, kept without answers": 1}


def test_open_questions_have_no_context_and_an_id_from_their_words(tmp_path: Path) -> None:
    named = {"id": "nq_7", "question": "who", "golden_answers": ["x", "x"]}
    (tmp_path / "nq.jsonl").write_text(json.dumps(named) + "\n")
    (question,) = read("natural_questions", lines(tmp_path / "NQ-open.dev.jsonl", OPEN)).questions
    assert question.context == () and question.answers == ("Rome", "Roma") and question.split == "dev"
    assert question.id == content_id("natural_questions", "who is old") and question.gold() == ["Rome", "Roma"]
    (other,) = read("natural_questions", tmp_path / "nq.jsonl").questions
    assert (other.id, other.answers) == ("nq_7", ("x",))
    reading = read("natural_questions", lines(tmp_path / "twice.jsonl", OPEN, {**OPEN, "answer": ["y"]}), fail_over=0.5)
    assert reading.report.bad == {"duplicate_id": 1}


def test_open_questions_of_other_sets_are_refused_by_their_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its name says 'webq"):
        read("natural_questions", lines(tmp_path / "webquestions-dev.jsonl", OPEN))


def test_evidence_of_gold_passages_is_in_the_gold_one(tmp_path: Path) -> None:
    (question,) = read("natural_questions", lines(tmp_path / "dev.jsonl", GOLD)).questions
    assert question.context[0] == Paragraph("M", ("Milan  is not Rome.",))
    assert question.supporting_facts == (Support(1, 1),)
    row = get("natural_questions").row(question)
    assert row["ctxs"] == GOLD["ctxs"]


def test_a_long_document_has_several_questions_over_one_page(tmp_path: Path) -> None:
    reading = read("natural_questions", lines(tmp_path / "dev.jsonl", BOOK, BOOK))
    assert reading.report.records == 4 and len({question.id for question in reading.questions}) == 4
    first, second = reading.questions[:2]
    assert (first.question, first.answers, second.answers) == ("who has dogs", ("Rome",), ("the table",))
    assert first.context == second.context and first.context[0].title == "Rome"
    assert first.supporting_facts == (Support(0, 0), Support(1, 0), Support(2, 0)) and second.supporting_facts == ()
    other = {**BOOK, "source": "narrative_qa"}
    with pytest.raises(InputError, match="not a Natural Questions file"):
        read("natural_questions", lines(tmp_path / "other.jsonl", other))


def with_short(**span: object) -> dict:
    record = copy.deepcopy(FULL)
    record["annotations"][0]["short_answers"] = [{**SHORT, **span}]
    return record


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (with_short(end_token=999), "answer_not_in_context"),
        (with_short(start_token=15, end_token=13), "answer_not_in_context"),
        (with_short(start_token="13"), "wrong_type"),
        ({**FULL, "annotations": [{"short_answers": [], "yes_no_answer": "NONE"}]}, "missing_field"),
        ({**FULL, "annotations": [{**FULL["annotations"][0], "yes_no_answer": "MAYBE"}]}, "wrong_type"),
        ({**FULL, "document_tokens": []}, "missing_field"),
        ({**FULL, "document_tokens": [{"token": "x"}]}, "missing_field"),
        ({**FULL, "document_tokens": [{"token": 1, "html_token": False}]}, "wrong_type"),
        ({**FULL, "example_id": None}, "missing_field"),
        ({**OPEN, "answer": []}, "no_answer"),
        ({**GOLD, "ctxs": []}, "missing_field"),
        ({**GOLD, "answers": [" "]}, "no_answer"),
        ({**BOOK, "outputs": ["one"]}, "wrong_type"),
        ({"document": "x"}, "missing_field"),
    ],
)
def test_bad_records_are_counted_under_their_reason(tmp_path: Path, record: dict, reason: str) -> None:
    path = lines(tmp_path / "dev.jsonl", {**FULL, "example_id": 5}, record)
    assert read("natural_questions", path, fail_over=0.5).report.bad == {reason: 1}


WORDS = st.text(st.sampled_from("ab.? \u3002\u00a0"), min_size=1, max_size=4)
MARKS = st.sampled_from(["<P>", "</P>", "<Td>", "</Li>", "<Tr>", "<H2>", '<Th_colspan="2">'])
PAGES = st.lists(st.tuples(WORDS, st.just(False)) | st.tuples(MARKS, st.just(True)), max_size=25)


@given(PAGES, st.data())
def test_words_and_spans_survive_another_layout(page: list, data: st.DataObject) -> None:
    once = page_of([Token(*token) for token in page], "T")
    layout = layout_of(once.paragraphs)
    again = page_of(layout.tokens, "T")
    assert again.paragraphs == once.paragraphs and again.words == once.words
    assert " ".join("".join(paragraph.sentences) for paragraph in once.paragraphs) == " ".join(once.words)
    if not once.words:
        return
    first = data.draw(st.integers(0, len(once.words) - 1))
    end = data.draw(st.integers(first + 1, len(once.words)))
    start_token, end_token = token_span(layout, [first, end])
    assert (again.words_before[start_token], again.words_before[end_token]) == (first, end)
    joined = "".join(
        once.paragraphs[s.paragraph].sentences[s.sentence] for s in sorted(once.supports(first, end), key=tuple_of)
    )
    for word in once.words[first:end]:
        assert word in joined or "\u3002" in word


def tuple_of(support: Support) -> tuple[int, int]:
    return support.paragraph, support.sentence
