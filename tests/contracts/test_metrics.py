"""What every registered metric promises, tried on its own example."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict
from typing import Any

import pytest
from mplat.core.errors import InputError, UsageError
from mplat.scoring import metrics
from mplat.scoring.metrics import Example, Score
from mplat.scoring.metrics.metric import METRICS

NAMES = metrics.names()
WRONG = [None, 3, 3.5, b"bytes", object()]


def example_of(name: str) -> Example:
    return METRICS.get(name).example


def values(score: Score) -> dict[str, float]:
    return {name: value for name, value in asdict(score).items() if value is not None}


@pytest.mark.parametrize("name", NAMES)
def test_a_right_prediction_has_its_score_and_a_wrong_one_zero(name: str) -> None:
    example = example_of(name)
    right, wrong = (metrics.score(name, prediction, example.gold) for prediction in (example.right, example.wrong))
    assert isinstance(right, Score) and right == example.score and values(right)
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in values(right).values())
    assert values(wrong) == dict.fromkeys(values(right), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_its_result_in_finite_numbers(name: str) -> None:
    example = example_of(name)
    result = metrics.evaluate(name, *example.file)
    assert result | dict(example.result) == result and example.result
    assert all(isinstance(key, str) for key in result)
    assert all(isinstance(value, int | float) and math.isfinite(value) and value >= 0 for value in result.values())


@pytest.mark.parametrize("name", NAMES)
def test_scoring_changes_nothing_and_gives_the_same_again(name: str) -> None:
    example = example_of(name)
    before = copy.deepcopy(example)
    assert metrics.score(name, example.right, example.gold) == metrics.score(name, example.right, example.gold)
    assert metrics.evaluate(name, *example.file) == metrics.evaluate(name, *example.file)
    assert example == before


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_prediction_gold_or_file_is_an_input_error(name: str) -> None:
    example = example_of(name)
    predictions, references = example.file

    def refused(call: Any, *arguments: Any) -> None:
        with pytest.raises(InputError):
            call(name, *arguments)
            pytest.fail(f"{call.__name__}{arguments} is taken")

    for wrong in WRONG:
        refused(metrics.score, wrong, example.gold)
        refused(metrics.score, example.right, wrong)
    for wrong in (*WRONG, "text", [3], {"x": 3}):
        refused(metrics.evaluate, predictions, wrong)
        if wrong != {"x": 3}:  # a mapping without the question: a missing prediction, which some count as wrong
            refused(metrics.evaluate, wrong, references)


@pytest.mark.parametrize("name", [name for name in NAMES if metrics.scores_unanswerable(name)])
def test_where_unanswerable_questions_are_scored_silence_is_right(name: str) -> None:
    assert set(values(metrics.score(name, "", [])).values()) == {1.0}
    assert set(values(metrics.score(name, "Rome", [])).values()) == {0.0}


@pytest.mark.parametrize("name", NAMES)
def test_unknown_arguments_are_named(name: str) -> None:
    example = example_of(name)
    with pytest.raises(UsageError, match=f"{name}.* has no argument 'alpha'"):
        metrics.score(name, example.right, example.gold, alpha=1)
    with pytest.raises(UsageError, match=f"{name}.* has no argument 'alpha'"):
        metrics.evaluate(name, *example.file, alpha=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_third_of_the_promised_speed_is_there_even_on_a_busy_machine(name: str) -> None:
    """CPU time, the best of several short turns; the full figures are those of benchmarks/metrics.py."""
    example, n = example_of(name), 200
    turns = []
    for _ in range(7):
        start = time.process_time()
        for _ in range(n):
            metrics.score(name, example.right, example.gold)
        turns.append(time.process_time() - start)
    assert n / max(min(turns), 1e-9) > example.per_second / 3
