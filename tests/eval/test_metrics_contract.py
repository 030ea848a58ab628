"""What every registered metric promises: fractions, purity, clear refusals, and enough speed. New metrics add a row."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, fields
from typing import Any

import pytest
from mplat.core.errors import InputError, UsageError
from mplat.scoring import metrics
from mplat.scoring.metrics import Score

DROP_GOLD = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": ["Denver Broncos"]}
MUSIQUE_GOLD = {
    "id": "1",
    "answer": "x",
    "answer_aliases": [],
    "answerable": True,
    "paragraphs": [{"idx": 0, "is_supporting": True}],
}
SPAN = {"start_byte": 1, "end_byte": 9, "start_token": 0, "end_token": 2}
NQ_ANSWER = {"long_answer": SPAN, "short_answers": [SPAN], "yes_no_answer": "NONE"}


@dataclass(frozen=True)
class Example:
    """A right prediction with its gold, a wrong one, and a small file."""

    gold: Any
    predictions: Any
    references: Any
    right: Any = "the Denver Broncos"
    wrong: Any = "Carolina"
    values: tuple[str, ...] = ("em",)  # what is 1 for the right prediction and 0 for the wrong one
    per_second: int = 10_000


def squad_file(**golds: list[str]) -> dict[str, Any]:
    qas = [{"id": i, "answers": [{"text": text} for text in texts]} for i, texts in golds.items()]
    return {"data": [{"paragraphs": [{"qas": qas}]}]}


TEXT = ["Denver Broncos", "The Denver Broncos", "Broncos"]
DOCUMENTS = {"1": ["the Denver Broncos"]}
EXAMPLES = {
    "squad_v1": Example(TEXT, {"a": "x"}, squad_file(a=["x"]), values=("em", "f1")),
    "squad_v2": Example(TEXT, {"a": "x", "b": ""}, squad_file(a=["x"], b=[]), values=("em", "f1")),
    "hotpotqa": Example(
        "Denver Broncos",
        {"answer": {"1": "x"}, "sp": {"1": [["T", 0]]}},
        [{"_id": "1", "answer": "x", "supporting_facts": [["T", 0]]}],
        values=("em", "f1", "prec", "recall"),
    ),
    "musique": Example(
        TEXT,
        [{"id": "1", "predicted_answer": "x", "predicted_support_idxs": [0], "predicted_answerable": True}],
        [MUSIQUE_GOLD],
        values=("em", "f1"),
    ),
    "triviaqa": Example(TEXT, {"1": "x"}, {"1": ["x"]}, values=("em", "f1"), per_second=5_000),
    "nq_open": Example(TEXT, {"q": "x"}, {"q": ["x"]}),
    "drop": Example(
        [DROP_GOLD],
        {"1": "x"},
        {"p": {"qa_pairs": [{"query_id": "1", "answer": DROP_GOLD}]}},
        values=("em", "f1"),
        per_second=2_000,
    ),
    "natural_questions": Example(
        [NQ_ANSWER] * 5,
        {"predictions": [NQ_ANSWER | {"example_id": 1, "long_answer_score": 1.0, "short_answers_score": 1.0}]},
        [{"example_id": 1, "annotations": [NQ_ANSWER] * 5}],
        right=NQ_ANSWER,
        wrong={},
        values=("long_em", "short_em"),
        per_second=2_000,
    ),
    "lm_eval_triviaqa": Example(["the denver broncos"], {"1": "x"}, DOCUMENTS),
    "lm_eval_nq_open": Example(TEXT, {"1": "x"}, DOCUMENTS),
    "lm_eval_drop": Example([DROP_GOLD], {"1": "x"}, {"1": DROP_GOLD}, values=("em", "f1"), per_second=2_000),
    "lm_eval_squadv2": Example(
        TEXT,
        [{"id": "1", "prediction_text": "x", "no_answer_probability": 0.5}],
        [{"id": "1", "answers": {"text": ["x"]}}],
        values=("em", "f1"),
    ),
    "lm_eval_longbench_qa_f1": Example(TEXT, {"1": "x"}, DOCUMENTS, values=("f1",)),
    **{
        f"lm_eval_{task}": Example("Denver Broncos", {"1": "x"}, DOCUMENTS, values=("contains",))
        for task in ("squad_completion", "swde", "fda")
    },
}  # fmt: skip
NAMES = metrics.names()


def test_every_metric_has_an_example_here() -> None:
    assert sorted(EXAMPLES) == NAMES
    assert {"squad_v1", "squad_v2", "hotpotqa", "musique", "triviaqa", "nq_open", "drop"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_right_prediction_is_one_and_a_wrong_one_zero(name: str) -> None:
    example = EXAMPLES[name]
    for prediction, expected in ((example.right, 1.0), (example.wrong, 0.0)):
        score = metrics.score(name, prediction, example.gold)
        assert isinstance(score, Score)
        assert {value: getattr(score, value) for value in example.values} == dict.fromkeys(example.values, expected)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_fractions_or_none_and_nothing_else_is_set(name: str) -> None:
    example = EXAMPLES[name]
    score = metrics.score(name, example.right, example.gold)
    assert {field.name for field in fields(score) if getattr(score, field.name) is not None} == set(example.values)
    assert all(isinstance(getattr(score, value), float) for value in example.values)


@pytest.mark.parametrize("name", NAMES)
def test_scoring_changes_nothing_and_gives_the_same_again(name: str) -> None:
    example = EXAMPLES[name]
    before = copy.deepcopy(example)
    assert metrics.score(name, example.right, example.gold) == metrics.score(name, example.right, example.gold)
    result = metrics.evaluate(name, example.predictions, example.references)
    assert metrics.evaluate(name, example.predictions, example.references) == result
    assert example == before


@pytest.mark.parametrize("name", NAMES)
def test_the_corpus_result_is_a_flat_mapping_of_finite_numbers(name: str) -> None:
    result = metrics.evaluate(name, EXAMPLES[name].predictions, EXAMPLES[name].references)
    assert result and all(isinstance(key, str) for key in result)
    assert all(isinstance(value, (int, float)) and 0 <= value <= 100 for value in result.values())


@pytest.mark.parametrize("wrong", [None, 3, 3.5, b"bytes", object()])
@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_or_gold_of_a_wrong_type_is_an_input_error(name: str, wrong: Any) -> None:
    example = EXAMPLES[name]
    with pytest.raises(InputError):
        metrics.score(name, wrong, example.gold)
    with pytest.raises(InputError):
        metrics.score(name, example.right, wrong)


@pytest.mark.parametrize("wrong", [None, 3, "text", [3], {"x": 3}])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_a_wrong_type_is_an_input_error(name: str, wrong: Any) -> None:
    example = EXAMPLES[name]
    with pytest.raises(InputError):
        metrics.evaluate(name, example.predictions, wrong)
    if wrong != {"x": 3}:  # a mapping without the question: a missing prediction, which some metrics count as wrong
        with pytest.raises(InputError):
            metrics.evaluate(name, wrong, example.references)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_arguments_are_named(name: str) -> None:
    example = EXAMPLES[name]
    with pytest.raises(UsageError, match=f"{name}.* has no argument 'alpha'"):
        metrics.score(name, example.right, example.gold, alpha=1)
    with pytest.raises(UsageError, match=f"{name}.* has no argument 'alpha'"):
        metrics.evaluate(name, example.predictions, example.references, alpha=1)


def test_only_metrics_that_know_unanswerable_questions_take_an_empty_gold_as_one() -> None:
    assert {name for name in NAMES if metrics.scores_unanswerable(name)} == {"squad_v2", "lm_eval_squadv2"}


@pytest.mark.parametrize("name", NAMES)
def test_a_third_of_the_promised_speed_is_there_even_on_a_busy_machine(name: str) -> None:
    """CPU time, the best of several short turns; the full figures are those of benchmarks/metrics.py."""
    example, n = EXAMPLES[name], 200
    turns = []
    for _ in range(7):
        start = time.process_time()
        for _ in range(n):
            metrics.score(name, example.right, example.gold)
        turns.append(time.process_time() - start)
    assert n / max(min(turns), 1e-9) > example.per_second / 3
