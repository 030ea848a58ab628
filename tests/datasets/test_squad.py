"""SQuAD v1.1: both schemas give the same questions, evidence is where the answer is, and v2 is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from mplat.core.errors import InputError
from mplat.datasets.reading import Reading, read
from mplat.datasets.records import Support, from_table, to_table

CONTEXT = "Mr. Rossi lives in Rome. He was born in 1950 in Milan.\u2028 He has 3.5 cats. Rome is old."


def qa(question_id: str, *answers: tuple[str, int], question: str = "Where does he live?") -> dict:
    spans = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": question_id, "question": question, "answers": spans}


def document(*qas: object, context: object = CONTEXT, version: str = "1.1") -> dict:
    return {"version": version, "data": [{"title": "Rossi", "paragraphs": [{"context": context, "qas": list(qas)}]}]}


def to_hugging_face(original: dict) -> list[dict]:
    """The original nesting as flat rows with columns of answers."""
    return [
        {
            "id": entry["id"],
            "title": article.get("title", ""),
            "context": paragraph["context"],
            "question": entry["question"],
            "answers": {key: [answer[key] for answer in entry["answers"]] for key in ("text", "answer_start")},
        }
        for article in original["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]


def to_original(rows: list[dict]) -> dict:
    """Flat rows as one article with one paragraph a row."""
    return {
        "version": "1.1",
        "data": [
            {
                "title": row["title"],
                "paragraphs": [
                    {
                        "context": row["context"],
                        "qas": [
                            {
                                "id": row["id"],
                                "question": row["question"],
                                "answers": [
                                    {"text": text, "answer_start": start}
                                    for text, start in zip(
                                        row["answers"]["text"], row["answers"]["answer_start"], strict=True
                                    )
                                ],
                            }
                        ],
                    }
                ],
            }
            for row in rows
        ],
    }


def store(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_question_carries_its_paragraph_in_sentences_and_the_sentence_of_its_answer(tmp_path: Path) -> None:
    path = store(tmp_path / "train.json", document(qa("q1", ("Rome", 19), ("Rome.", 19)), qa("q2", ("Rome", 73))))
    first, second = read("squad", path).questions
    assert (first.id, first.dataset, first.split, first.metric) == ("q1", "squad", "train", "squad_v1")
    assert first.licence == "CC BY-SA 4.0" and first.hops is None
    assert first.answers == ("Rome", "Rome.")
    assert first.context[0].title == "Rossi"
    assert first.context[0].sentences == (
        "Mr. Rossi lives in Rome. ",
        "He was born in 1950 in Milan.\u2028 ",
        "He has 3.5 cats. ",
        "Rome is old.",
    )
    assert "".join(first.context[0].sentences) == CONTEXT
    assert first.supporting_facts == (Support(0, 0),)
    assert second.supporting_facts == (Support(0, 3),)


def test_answers_in_several_sentences_and_across_a_cut_name_all_of_them(tmp_path: Path) -> None:
    across = "Rome. He was born"
    path = store(tmp_path / "a.json", document(qa("q1", ("Rome", 73), ("1950", 40)), qa("q2", (across, 19))))
    first, second = read("squad", path).questions
    assert first.supporting_facts == (Support(0, 1), Support(0, 3))
    assert second.supporting_facts == (Support(0, 0), Support(0, 1))


def test_layouts_of_both_schemas_give_the_same_questions(tmp_path: Path) -> None:
    original = document(qa("q1", ("Rome", 19), ("Rome", 73)), qa("q2", ("1950", 40)))
    rows = to_hugging_face(original)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dev.parquet")
    packed = zstandard.ZstdCompressor().compress(lines(tmp_path / "x.jsonl", rows).read_bytes())
    (tmp_path / "dev.jsonl.zst").write_bytes(packed)
    (tmp_path / "dev.json.gz").write_bytes(gzip.compress(json.dumps(original, indent=1).encode()))
    paths = [
        store(tmp_path / "dev.json", original),
        tmp_path / "dev.json.gz",
        store(tmp_path / "dev_rows.json", rows),
        lines(tmp_path / "dev_rows.jsonl", rows),
        tmp_path / "dev.jsonl.zst",
        tmp_path / "dev.parquet",
        lines(tmp_path / "dev_articles.jsonl", original["data"]),
        store(tmp_path / "dev_back.json", to_original(rows)),
    ]
    expected = read("squad", paths[0]).questions
    assert len(expected) == 2
    for path in paths[1:]:
        assert read("squad", path).questions == expected, path.name


def test_questions_survive_their_table(tmp_path: Path) -> None:
    questions = read("squad", store(tmp_path / "a.json", document(qa("q1", ("Rome", 19))))).questions
    assert from_table(to_table(questions)) == list(questions)


@pytest.mark.parametrize(
    "path_and_value",
    [
        lambda p: store(p / "a.json", document(qa("q", ("Rome", 19)), version="v2.0")),
        lambda p: store(p / "a.json", document({**qa("q", ("Rome", 19)), "is_impossible": False})),
        lambda p: lines(p / "a.jsonl", [{**row, "is_impossible": False} for row in good_rows(3)]),
        lambda p: lines(p / "a.jsonl", [*good_rows(3), *unanswerable(2)]),
        lambda p: store(p / "squad_v2_dev.json", document(qa("q", ("Rome", 19)))),
    ],
)
def test_version_two_is_refused_with_its_name(tmp_path: Path, path_and_value: Callable[[Path], Path]) -> None:
    with pytest.raises(InputError, match=r"SQuAD v2.*not SQuAD v1\.1"):
        read("squad", path_and_value(tmp_path))


def good_rows(count: int) -> list[dict]:
    return [row for n in range(count) for row in to_hugging_face(document(qa(f"q{n}", ("Rome", 19))))]


def unanswerable(count: int) -> list[dict]:
    return [
        {**row, "id": f"u{n}", "answers": {"text": [], "answer_start": []}} for n, row in enumerate(good_rows(count))
    ]


def test_a_few_questions_without_answer_are_counted_and_explained_when_too_many(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [*good_rows(20), *unanswerable(1)])
    with pytest.raises(InputError, match=r"1 of 21 SQuAD v1\.1 records cannot be used \(no_answer 1; .*SQuAD v2"):
        read("squad", path)
    reading = read("squad", path, fail_over=0.05)
    assert (len(reading.questions), reading.report.bad) == (20, {"no_answer": 1})


BAD = {
    "missing_field": qa("q") | {"id": None},
    "wrong_type": qa("q", ("Rome", 19)) | {"question": 7},
    "empty_question": qa("q", ("Rome", 19), question=" \n\u2003"),
    "no_answer": qa("q"),
    "answer_not_in_context": qa("q", ("Rome", 18)),
    "bad_unicode": qa("q", ("Rome", 19), question="half \ud83d"),
}


@pytest.mark.parametrize("reason", BAD)
def test_i4_a_bad_question_is_counted_under_its_reason_and_the_rest_is_kept(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document(qa("good", ("Rome", 19)), BAD[reason])), encoding="utf-8")
    reading = read("squad", path, fail_over=0.5)
    assert [question.id for question in reading.questions] == ["good"]
    assert reading.report.bad == {reason: 1}
    assert reading.report.records == 2 and reading.report.bad_share == 0.5
    assert "question 2" in reading.report.examples[0] and reason in reading.report.examples[0]
    with pytest.raises(InputError, match=f"{reason} 1.*question 2.*--fail-over"):
        read("squad", path)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("not an object", "wrong_type"),
        (qa("q") | {"answers": "Rome"}, "wrong_type"),
        (qa("q") | {"answers": [{"text": "Rome", "answer_start": 19.0}]}, "wrong_type"),
        (qa("q") | {"answers": [{"text": "Rome", "answer_start": True}]}, "wrong_type"),
        (qa("q") | {"answers": {"text": ["Rome"], "answer_start": []}}, "wrong_type"),
        (qa("q") | {"answers": [{"text": "Rome"}]}, "missing_field"),
        (qa("q", ("old.", -4)), "answer_not_in_context"),
        (qa("q", (" ", 3)), "no_answer"),
        (qa(" ", ("Rome", 19)), "missing_field"),
    ],
)
def test_wrong_shapes_are_counted(tmp_path: Path, entry: object, reason: str) -> None:
    reading = read("squad", store(tmp_path / "a.json", document(qa("good", ("Rome", 19)), entry)), fail_over=0.5)
    assert reading.report.bad == {reason: 1}


def test_a_broken_paragraph_or_article_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    value = document(qa("good", ("Rome", 19)))
    value["data"] += [{"title": "x"}, 7, {"title": "y", "paragraphs": [{"context": "no questions"}, {"qas": []}, 3]}]
    reading = read("squad", store(tmp_path / "a.json", value), fail_over=0.9)
    assert len(reading.questions) == 1
    assert reading.report.bad == {"missing_field": 3, "wrong_type": 2}


def test_i4_odd_but_valid_questions_are_kept_as_they_are(tmp_path: Path) -> None:
    odd = ["🙂🙃", "\u202bאיפה הוא גר?\u202c", "  leading blanks stay", "x" * 50_000]
    path = store(
        tmp_path / "a.json", document(*(qa(f"q{n}", ("Rome", 19), question=text) for n, text in enumerate(odd)))
    )
    assert [question.question for question in read("squad", path).questions] == odd


def test_i4_a_context_beyond_any_model_is_too_long(tmp_path: Path) -> None:
    value = document(qa("q", ("Rome", 19)), context=CONTEXT + " word" * 100_000)
    value["data"] += document(qa("good", ("Rome", 19)))["data"]
    assert read("squad", store(tmp_path / "a.json", value), fail_over=0.5).report.bad == {"too_long": 1}


def test_i4_an_id_that_is_there_twice_is_bad_the_second_time_within_and_across_files(tmp_path: Path) -> None:
    twice = store(tmp_path / "a.json", document(qa("q1", ("Rome", 19)), qa("q1", ("1950", 40))))
    with pytest.raises(InputError, match=r"duplicate_id 1.*question 2: .*'q1' is there already, first in .*question 1"):
        read("squad", twice)
    reading = read("squad", twice, fail_over=0.5)
    assert reading.report.bad == {"duplicate_id": 1} and reading.questions[0].answers == ("Rome",)
    one = store(tmp_path / "one.json", document(qa("q1", ("Rome", 19))))
    other = store(tmp_path / "other.json", document(qa("q1", ("Rome", 19))))
    with pytest.raises(InputError, match=r"other\.json, question 1: duplicate_id: 'q1' .*one\.json"):
        read("squad", [one, other])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"passages": []}, "its first value has passages; expected data > paragraphs > qas"),
        ([], "no whole value was found"),
        ({"data": []}, "its first value has data"),
        (["text"], "its first value is a str"),
        (document(), "holds no question, although it has the form of SQuAD v1.1"),
        (document(qa("q")), "no question is left"),
    ],
)
def test_i3_other_schemas_and_empty_files_are_refused(tmp_path: Path, value: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read("squad", store(tmp_path / "a.json", value), fail_over=1.0)


def test_the_split_can_be_given(tmp_path: Path) -> None:
    path = store(tmp_path / "validation.json", document(qa("q", ("Rome", 19))))
    assert read("squad", path).questions[0].split == "dev"
    assert read("squad", path, split="held-out").questions[0].split == "held-out"


def real(shared_data: Path, name: str) -> Path:
    path = shared_data / "squad_v1" / name
    if not path.exists():
        pytest.skip(f"{name} not present")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "articles", "paragraphs"),
    [("dev_part_a.json.gz", 4961, 24, 913), ("train_part.json.gz", 11877, 44, 2430)],
)
def test_every_real_record_is_read_in_both_schemas(
    shared_data: Path, tmp_path: Path, name: str, count: int, articles: int, paragraphs: int
) -> None:
    path = real(shared_data, name)
    reading: Reading = read("squad", path)
    assert len(reading.questions) == reading.report.records == count and not reading.report.bad
    original = json.loads(gzip.decompress(path.read_bytes()))
    rows = to_hugging_face(original)
    assert len(original["data"]) == articles
    assert sum(len(article["paragraphs"]) for article in original["data"]) == paragraphs
    contexts = {row["id"]: row["context"] for row in rows}
    for question in reading.questions:
        assert "".join(question.context[0].sentences) == contexts[question.id]
        evidence = "".join(question.context[0].sentences[fact.sentence] for fact in question.supporting_facts)
        assert all(answer.strip() in evidence for answer in question.answers)
    split = "train" if "train" in name else "dev"
    flat = lines(tmp_path / f"{split}.jsonl", rows)
    assert read("squad", flat).questions == reading.questions
    if split == "dev":  # and back again; once is enough
        assert read("squad", store(tmp_path / "dev.json", to_original(rows))).questions == reading.questions


def test_the_real_second_version_is_refused(shared_data: Path) -> None:
    for name in ("dev_part_a.json.gz", "validation_hf.jsonl.zst"):
        path = shared_data / "squad_v2" / name
        if not path.exists():
            pytest.skip(f"{name} not present")
        with pytest.raises(InputError, match="SQuAD v2"):
            read("squad", path)
