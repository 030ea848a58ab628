"""What questions have in common: the document, article or entity that makes their answers depend on each other."""

# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mplat.datasets import facts
from mplat.datasets.data_set import get
from mplat.datasets.reading import read
from mplat.datasets.records import Question


def questions(data_set: str, value: Any, folder: Path) -> tuple[Question, ...]:
    path = folder / "file.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return read(data_set, path).questions


def test_the_paragraph_of_squad(tmp_path: Path) -> None:
    def paragraph(context: str, *ids: str) -> dict[str, Any]:
        answer = {"text": context.split()[0], "answer_start": 0}
        return {"context": context, "qas": [{"id": i, "question": f"{i}?", "answers": [answer]} for i in ids]}

    articles = [
        {"title": "Rome", "paragraphs": [paragraph("Rome is old.", "a", "b"), paragraph("Ostia is near.", "c")]},
        {"title": "Roma", "paragraphs": [paragraph("Rome is old.", "d")]},
    ]
    a, b, c, d = questions("squad", {"version": "1.1", "data": articles}, tmp_path)
    assert a.group == b.group and len({a.group, c.group, d.group}) == 3 and a.group.startswith("Rome ")
    row = get("squad").row(a)
    (flat,) = questions("squad", [row], tmp_path)
    assert flat.group == a.group


def test_the_article_in_which_the_answer_of_hotpotqa_stands(tmp_path: Path) -> None:
    def record(name: str, answer: str, *titles: str) -> dict[str, Any]:
        texts = {"A": ["Ann is from Rome."], "B": ["Rome is old. ", " It has 3 dogs."], "C": ["Nothing."]}
        return {
            "_id": name, "question": f"{name}?", "answer": answer, "supporting_facts": [[t, 0] for t in titles],
            "context": [[title, texts[title]] for title in ("C", "B", "A")],
        }  # fmt: skip

    asked = [record("h1", "3 dogs", "B", "C"), record("h2", "3 dogs", "A", "B"), record("h3", "yes", "C", "B")]
    assert [q.group for q in questions("hotpotqa", asked, tmp_path)] == ["B", "B", "B"]
    asked = [record("h4", "Ann", "C", "A"), record("h5", "no", "C", "A")]
    assert [q.group for q in questions("hotpotqa", asked, tmp_path)] == ["A", "A"]


def test_the_last_step_of_musique_and_of_its_twin_without_the_paragraph(tmp_path: Path) -> None:
    (sample,) = get("musique").sample.original
    other = sample | {"id": "2hop__9_12", "question": "Which?", "question_decomposition": [
        sample["question_decomposition"][0] | {"id": 9}, sample["question_decomposition"][1],
    ]}  # fmt: skip
    twin = sample | {"answerable": False, "paragraphs": sample["paragraphs"][1:], "question_decomposition": [
        sample["question_decomposition"][0], sample["question_decomposition"][1] | {"paragraph_support_idx": None},
    ]}  # fmt: skip
    found = questions("musique", [sample, twin, other], tmp_path)
    assert [q.group for q in found] == ["single question 12"] * 3


@pytest.mark.parametrize("schema", ["rows", "original"])
def test_the_passage_of_drop(schema: str, tmp_path: Path) -> None:
    first, second = questions("drop", list(getattr(get("drop").sample, schema)), tmp_path)
    assert first.group == second.group != ""


def test_the_first_page_of_triviaqa_and_none_of_open_questions(tmp_path: Path) -> None:
    (row,) = get("triviaqa").sample.rows
    named = row | {"entity_pages": {"title": ["Rome", "Italy"]}}
    official = {"Data": [
        {"QuestionId": "t2", "Question": "Who?", "Answer": {"Value": "Ann", "NormalizedAliases": ["ann"]},
         "EntityPages": [{"Filename": "Rome.txt", "Title": "Rome"}]},
    ]}  # fmt: skip
    (alone,) = questions("triviaqa", [row], tmp_path)
    (first,) = questions("triviaqa", [named], tmp_path)
    (second,) = questions("triviaqa", official, tmp_path)
    assert (alone.group, first.group, second.group) == ("", "Rome", "Rome") and alone.origin == "t1"
    (again,) = questions("triviaqa", [get("triviaqa").row(second)], tmp_path)
    assert again.group == "Rome"
    (open_question,) = questions("natural_questions", [{"question": "who", "answer": ["Ann"]}], tmp_path)
    assert open_question.group == ""


def test_the_page_of_natural_questions(tmp_path: Path) -> None:
    document = {"instructions": ["Who?", "What?"], "outputs": ["Rome", "dogs"], "input": "Rome has 3 dogs .",
                "source": "natural_question"}  # fmt: skip
    first, second = questions("natural_questions", [document], tmp_path)
    assert first.group == second.group != ""
    passages = [{"title": "Rome", "text": "Rome is old."}, {"title": "Dogs", "text": "3 dogs.", "isgold": True}]
    gold = [{"question": f"q{i}", "answers": ["3 dogs"], "ctxs": passages[i:]} for i in range(2)]
    assert [q.group for q in questions("natural_questions", gold, tmp_path)] == ["Dogs", "Dogs"]


def test_the_entity_that_a_question_of_the_facts_world_asks_about() -> None:
    made = facts.prompts(per_level=6, seed=2, controls=("deleted",))
    assert all(q.group and q.group in q.question for q in made)
    of = {q.id: q.group for q in made}
    assert all(q.group == of[q.derived_from] for q in made if q.control)
    swept = facts.prompts(per_level=2, seed=2, distances=(0, 20))
    assert all(q.group in q.question for q in swept) and {q.original for q in swept} < set(of)
