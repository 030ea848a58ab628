"""Contrasts: pairs in a file, subsets by a column, the facts world, answers of an evaluation."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mplat.core.errors import InputError, UsageError
from mplat.datasets import facts
from mplat.datasets.prompting.asked_before import question_digests
from mplat.datasets.records import to_table
from mplat.steering.vectors import Contrast, Text, of_answers, of_columns, of_facts, read_pairs
from planted_models import talking


@pytest.fixture(scope="module")
def model():
    return talking()


@pytest.fixture(scope="module")
def asked():
    return facts.prompts(4, 1)


@pytest.fixture
def questions(asked, tmp_path):
    path = tmp_path / "questions.parquet"
    pq.write_table(to_table(asked), path)
    return path


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_with_their_groups_and_evidence(tmp_path):
    path = lines(
        tmp_path / "pairs.jsonl",
        {"positive": "It is a good film.", "negative": "It is a bad film.", "evidence": "film", "group": "f"},
        {"positive": "yes", "negative": "no"},
    )
    found = read_pairs(path)
    assert [t.text for t in found.positive] == ["It is a good film.", "yes"] and found.paired
    assert found.positive[0].evidence == ((13, 17),) and found.negative[0].evidence == ((12, 16),)
    assert [t.group for t in found.negative] == ["f", "line 2"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"positive": "a"}, "line 1: lacks 'positive' or 'negative'"),
        ({"positive": "a", "negativ": "b"}, "unknown field 'negativ'; did you mean 'negative'"),
        ({"positive": "a", "negative": 3}, "must be a text that is not blank"),
        ({"positive": "a", "negative": "b", "evidence": "b"}, "'b' is not in the positive text word for word"),
        ({"positive": "a", "negative": "a"}, "positive and negative at once"),
        (["a", "b"], "no object"),
    ],
)
def test_a_line_that_is_no_pair_is_an_error_with_its_place(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        read_pairs(lines(tmp_path / "pairs.jsonl", row))


def test_two_subsets_by_a_column_are_the_prompts_of_these_questions(model, asked, questions):
    found = of_columns(model, questions, "category=two_hop", "level=1")
    assert [t.text for t in found.positive] == [q.prompt for q in asked if q.level == 2]
    assert [t.text for t in found.negative] == [q.prompt for q in asked if q.level == 1]
    assert found.decided_on == question_digests(q for q in asked if q.level in (1, 2))
    evidence = [q for q in asked if q.level == 2][0]
    said = evidence.context[0].sentences
    assert {found.positive[0].text[a:b] for a, b in found.positive[0].evidence} == {
        said[s.sentence] for s in evidence.supporting_facts
    }


def test_own_prompts_have_their_own_columns(model, tmp_path):
    path = lines(tmp_path / "own.jsonl", {"prompt": "It rains", "mood": "sad"}, {"prompt": "It shines", "happy": True})
    found = of_columns(model, path, "happy=true", "mood=sad")
    assert [t.text for t in (*found.positive, *found.negative)] == ["It shines", "It rains"]


@pytest.mark.parametrize(
    ("positive", "message"),
    [("kategory=two_hop", "no column 'kategory'; did you mean 'category'"), ("two_hop", "write COLUMN=VALUE")],
)
def test_a_condition_that_names_nothing_is_an_error(model, questions, positive, message):
    with pytest.raises(UsageError, match=message):
        of_columns(model, questions, positive, "level=1")


def test_an_empty_subset_is_an_error(model, questions):
    with pytest.raises(InputError, match="there is no positive text"):
        of_columns(model, questions, "category=nothing", "level=1")


def test_questions_of_the_facts_world_stand_against_themselves_without_the_answer(model):
    found = of_facts(model, per_level=3, seed=2)
    assert found.paired and len(found.positive) == 18
    for with_it, without in zip(found.positive, found.negative, strict=True):
        assert with_it.group == without.group and len(without.text) < len(with_it.text)
        for start, stop in with_it.evidence:
            assert with_it.text[start:stop] not in without.text
    evaluated = {q.prompt for q in facts.prompts(100, 2)}
    assert not evaluated & {t.text for t in found.positive}
    assert of_facts(model, per_level=3, seed=2).digest == found.digest != of_facts(model, per_level=3, seed=3).digest


def test_what_a_model_answered_right_stands_against_what_it_did_not(tmp_path):
    items = [
        {"question_id": f"q{i}", "condition": condition, "status": "ok", "em": float(i % 2 == 0),
         "prompt_digest": f"d{i}", "group": "", "derived_from": "", "category": "c"}
        for i in range(6)
        for condition in ("unsteered", "steered")
    ]  # fmt: skip
    prompts = [{"prompt_digest": f"d{i}", "text": f"text {i}"} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "items.parquet")
    pq.write_table(pa.Table.from_pylist(prompts), tmp_path / "prompts.parquet")
    found = of_answers(tmp_path / "items.parquet", "em=1", "em=0")
    assert [t.text for t in found.positive] == ["text 0", "text 2", "text 4"]
    assert [t.group for t in found.negative] == ["q1", "q3", "q5"]
    with pytest.raises(UsageError, match="no condition 'steerd'; did you mean 'steered'"):
        of_answers(tmp_path / "items.parquet", "em=1", "em=0", condition="steerd")


def test_pairs_must_be_two_of_a_kind():
    with pytest.raises(InputError, match="2 positive and 1 negative texts are no pairs"):
        Contrast((Text("a", "1"), Text("b", "2")), (Text("c", "1"),), True, "here")
