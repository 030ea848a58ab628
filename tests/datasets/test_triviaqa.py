"""TriviaQA: three schemas, and answers that score exactly as the official answer object does."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from mplat.core.errors import InputError
from mplat.datasets.readers.triviaqa_evidence import documents
from mplat.datasets.reading import read
from mplat.scoring import metrics
from mplat.scoring.metrics.triviaqa import normalise_trivia

ANSWER = {
    "Value": "Sunset Boulevard",
    "Aliases": ["Sunset Blvd", "Sunset Blvd.", "West Sunset Boulevard", "Something the metric does not accept"],
    "NormalizedAliases": ["sunset boulevard", "sunset blvd", "west sunset boulevard", "no readable form"],
    "MatchedWikiEntityName": "Sunset Boulevard",
    "NormalizedMatchedWikiEntityName": "sunset boulevard",
    "NormalizedValue": "sunset boulevard",
    "Type": "WikipediaEntity",
}


def datum(question_id: str = "tc_1", **changes: object) -> dict:
    return {"QuestionId": question_id, "Question": "Which musical?", "Answer": ANSWER, "EntityPages": [], **changes}


def official(*data: object, split: str = "dev") -> dict:
    return {"Data": list(data), "Domain": "Wikipedia", "Split": split, "VerifiedEval": False, "Version": 1.0}


def to_hugging_face(original: dict) -> dict:
    """Camel case to snake case, lists of objects to columns."""
    answer = original["Answer"]
    pages = original.get("EntityPages") or []
    return {
        "question": original["Question"],
        "question_id": original["QuestionId"],
        "question_source": original.get("QuestionSource", ""),
        "entity_pages": {
            snake: [page.get(camel, "") for page in pages]
            for snake, camel in (("doc_source", "DocSource"), ("filename", "Filename"), ("title", "Title"))
        },
        "answer": {
            "value": answer["Value"],
            "aliases": answer["Aliases"],
            "normalized_aliases": answer["NormalizedAliases"],
            "matched_wiki_entity_name": answer.get("MatchedWikiEntityName", ""),
            "normalized_value": answer["NormalizedValue"],
            "type": answer["Type"],
        },
    }


def store(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_answers_are_readable_and_normalise_to_what_the_metric_accepts(tmp_path: Path) -> None:
    (question,) = read("triviaqa", store(tmp_path / "a.json", official(datum()))).questions
    assert (question.id, question.dataset, question.split, question.metric) == ("tc_1", "triviaqa", "dev", "triviaqa")
    assert question.answers == (
        "Sunset Boulevard",
        "Sunset Blvd",
        "Sunset Blvd.",
        "West Sunset Boulevard",
        "no readable form",
    )
    assert question.context == () and question.supporting_facts == () and question.hops is None
    assert {normalise_trivia(text) for text in question.answers} == set(ANSWER["NormalizedAliases"])


def test_human_answers_count_and_a_value_that_is_no_alias_does_not(tmp_path: Path) -> None:
    answer = {**ANSWER, "Value": "Not an alias", "HumanAnswers": ["The Boulevard-Musical"]}
    (question,) = read("triviaqa", store(tmp_path / "a.json", official(datum(Answer=answer)))).questions
    assert "Not an alias" not in question.answers and "The Boulevard-Musical" in question.answers
    for text in ("boulevard musical", "Not an alias", "sunset blvd", "west boulevard", ""):
        assert metrics.score("triviaqa", text, question.answers) == metrics.score("triviaqa", text, answer)


def test_layouts_of_both_schemas_give_the_same_questions(tmp_path: Path) -> None:
    data = [datum(), datum("tc_2", Question="And which\u2028other?")]
    rows = [to_hugging_face(entry) for entry in data]
    expected = read("triviaqa", store(tmp_path / "a.json", official(*data))).questions
    assert len(expected) == 2
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dev.parquet")
    for path in (
        lines(tmp_path / "dev.jsonl", rows),
        tmp_path / "dev.parquet",
        lines(tmp_path / "dev_data.jsonl", data),
    ):
        assert read("triviaqa", path).questions == expected, path.name


def test_i4_open_domain_records_keep_every_alias_once_and_their_split(tmp_path: Path) -> None:
    row = {"id": "test_7", "question": "Who?", "golden_answers": ["PUCK", "Puck", "PUCK"]}
    (question,) = read("triviaqa", lines(tmp_path / "train.jsonl", [row])).questions
    assert question.answers == ("PUCK", "Puck") and question.split == "test"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (datum("x", Answer=None), "missing_field"),
        (datum("x", Answer={**ANSWER, "NormalizedAliases": []}), "no_answer"),
        (datum("x", Answer={**ANSWER, "NormalizedAliases": None}), "missing_field"),
        (datum("x", Answer=["a"]), "wrong_type"),
        (datum("x", Question="\t"), "empty_question"),
        ("x", "wrong_type"),
    ],
)
def test_bad_records_are_counted_under_their_reason(tmp_path: Path, entry: object, reason: str) -> None:
    reading = read("triviaqa", store(tmp_path / "a.json", official(datum(), entry)), fail_over=0.5)
    assert reading.report.bad == {reason: 1} and len(reading.questions) == 1


def test_evidence_documents_and_other_schemas_are_no_questions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a TriviaQA file .*Filename, text"):
        read("triviaqa", lines(tmp_path / "evidence.jsonl", [{"Filename": "a.txt", "text": "x"}]))
    with pytest.raises(InputError, match="'nq', not TriviaQA"):
        read("triviaqa", lines(tmp_path / "nq.jsonl", [{"id": "1", "question": "?", "golden_answers": ["x"]}]))


def real(shared_data: Path, name: str) -> Path:
    path = shared_data / "triviaqa" / name
    if not path.exists():
        pytest.skip(f"{name} not present")
    return path


@pytest.mark.parametrize(
    ("name", "count"), [("official_rc_wikipedia-dev.json", 2), ("official_rc_wikipedia-train.json", 4)]
)
def test_every_real_official_record_is_read_in_both_schemas(
    shared_data: Path, tmp_path: Path, name: str, count: int
) -> None:
    path = real(shared_data, name)
    reading = read("triviaqa", path)
    assert len(reading.questions) == reading.report.records == count and not reading.report.bad
    original = json.loads(path.read_text(encoding="utf-8"))
    for question, entry in zip(reading.questions, original["Data"], strict=True):
        assert {normalise_trivia(text) for text in question.answers} == set(entry["Answer"]["NormalizedAliases"])
        assert question.answers[0] == entry["Answer"]["Value"]
    rows = lines(tmp_path / f"{original['Split']}.jsonl", [to_hugging_face(entry) for entry in original["Data"]])
    assert read("triviaqa", rows).questions == reading.questions


def test_every_real_open_domain_record_is_read(shared_data: Path, tmp_path: Path) -> None:
    path = real(shared_data, "triviaqa_open.jsonl.zst")
    reading = read("triviaqa", path)
    assert len(reading.questions) == reading.report.records == 662 and not reading.report.bad
    text = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().decode()
    originals = [json.loads(line) for line in text.split("\n") if line]
    assert [set(q.answers) for q in reading.questions] == [set(original["golden_answers"]) for original in originals]
    rows = [
        {
            "question": question.question,
            "question_id": question.id,
            "answer": {
                "value": question.answers[0],
                "aliases": list(question.answers),
                "normalized_aliases": sorted({normalise_trivia(answer) for answer in question.answers}),
            },
        }
        for question in reading.questions
    ]
    assert read("triviaqa", lines(tmp_path / "test.jsonl", rows)).questions == reading.questions


def test_the_documents_that_real_questions_name_are_there(shared_data: Path) -> None:
    found = documents(real(shared_data, "official_rc_wikipedia_evidence.jsonl.zst"))
    assert len(found) == 10 and all(text.strip() for text in found.values())
    for name in ("official_rc_wikipedia-dev.json", "official_rc_wikipedia-train.json"):
        original = json.loads(real(shared_data, name).read_text(encoding="utf-8"))
        named = {page["Filename"] for entry in original["Data"] for page in entry["EntityPages"]}
        assert named and named <= found.keys()


@pytest.mark.parametrize(
    "wrong", [{"Filename": "a"}, {"Filename": "x", "text": "again"}, ["x"], {"Filename": " ", "text": ""}]
)
def test_a_document_that_is_none_is_an_error(tmp_path: Path, wrong: object) -> None:
    path = lines(tmp_path / "evidence.jsonl", [{"Filename": "x", "text": "\u2028"}, wrong])
    with pytest.raises(InputError, match="line 2: not a document of {Filename, text}"):
        documents(path)
    assert documents(lines(tmp_path / "good.jsonl", [{"Filename": "x", "text": "a\u2028b"}])) == {"x": "a\u2028b"}
