"""Natural Questions: votes of five annotators, spans by bytes or tokens, thresholds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.scoring import metrics

NULL = {"start_byte": -1, "end_byte": -1, "start_token": -1, "end_token": -1}


def span(start: int, end: int, *, tokens: bool = False) -> dict[str, int]:
    """A span by bytes, or by tokens alone."""
    return (
        {**NULL, "start_token": start, "end_token": end} if tokens else {**NULL, "start_byte": start, "end_byte": end}
    )


def answer(long: dict | None = None, short: Any = (), yes_no: str = "NONE") -> dict[str, Any]:
    return {"long_answer": long or NULL, "short_answers": list(short), "yes_no_answer": yes_no}


def both(prediction: dict[str, Any], *annotations: dict[str, Any]) -> tuple[float | None, float | None]:
    gold = [*annotations, *[answer() for _ in range(5 - len(annotations))]]
    score = metrics.score("natural_questions", prediction, gold)
    return score.long_em, score.short_em


def test_gold_exists_if_two_of_five_annotators_gave_an_answer() -> None:
    one = answer(span(1, 9), [span(2, 3)])
    assert both(one, one) == (None, None)
    assert both(one, one, one) == (1.0, 1.0)


def test_a_span_of_any_annotator_will_do_and_must_be_exact() -> None:
    annotations = (answer(span(1, 9)), answer(span(20, 30)))
    assert both(answer(span(20, 30)), *annotations)[0] == 1.0
    assert both(answer(span(20, 29)), *annotations)[0] == 0.0
    assert both(answer(), *annotations)[0] == 0.0


def test_spans_are_compared_by_bytes_or_by_tokens_whichever_both_have() -> None:
    full = {"start_byte": 10, "end_byte": 20, "start_token": 3, "end_token": 5}
    assert both(answer(span(10, 20)), answer(full), answer(full))[0] == 1.0
    assert both(answer(span(3, 5, tokens=True)), answer(full), answer(full))[0] == 1.0
    assert both(answer(span(3, 5)), answer(full), answer(full))[0] == 0.0


def test_short_answers_are_sets_of_spans_of_one_annotator() -> None:
    annotations = (answer(short=[span(1, 2), span(4, 5)]), answer(short=[span(7, 8)]))
    assert both(answer(short=[span(4, 5), span(1, 2), NULL]), *annotations)[1] == 1.0
    assert both(answer(short=[span(1, 2)]), *annotations)[1] == 0.0
    assert both(answer(short=[span(1, 2), span(7, 8)]), *annotations)[1] == 0.0


def test_yes_and_no_are_short_answers() -> None:
    annotations = (answer(yes_no="YES"), answer(short=[span(1, 2)]))
    assert both(answer(yes_no="yes"), *annotations)[1] == 1.0
    assert both(answer(yes_no="NO"), *annotations)[1] == 0.0
    assert both(answer(short=[span(1, 2)]), *annotations)[1] == 1.0


def test_an_annotator_may_have_given_yes_or_no_and_spans() -> None:
    """Then a prediction of either kind can be right, and the two count as one annotator."""
    gold = answer(short=[span(1, 2)], yes_no="YES")
    assert both(answer(yes_no="YES"), gold) == (None, None)
    assert both(answer(yes_no="YES"), gold, gold)[1] == 1.0
    assert both(answer(yes_no="NO"), gold, gold)[1] == 0.0
    assert both(answer(short=[span(1, 2)]), gold, gold)[1] == 1.0
    assert both(answer(short=[span(1, 3)]), gold, answer(short=[NULL], yes_no="NO"))[1] == 0.0
    result = metrics.evaluate(
        "natural_questions", {"predictions": [predicted(1, None, 0.0) | answer(yes_no="YES")]}, [record(1, gold, gold)]
    )
    assert result["short-best-threshold-f1"] == 1.0


SHORT = st.builds(
    answer,
    short=st.lists(st.sampled_from([span(1, 2), span(3, 4), span(3, 4, tokens=True), NULL]), max_size=2),
    yes_no=st.sampled_from(["NONE", "NONE", "YES", "No"]),
)


@given(SHORT, st.lists(SHORT, min_size=5, max_size=5))
def test_short_answers_are_judged_by_the_official_rule(prediction: dict[str, Any], gold: list) -> None:
    def spans(given: dict[str, Any]) -> set[tuple[int, ...]]:
        return {tuple(one.values()) for one in given["short_answers"] if one != NULL}

    def label(given: dict[str, Any]) -> str:
        return given["yes_no_answer"].lower()

    if label(prediction) != "none" and spans(prediction):
        with pytest.raises(InputError, match="not both"):
            both(prediction, *gold)
        return
    if sum(bool(spans(one)) or label(one) != "none" for one in gold) < 2:
        expected = None
    elif label(prediction) != "none":
        expected = float(label(prediction) in map(label, gold))
    else:
        expected = float(bool(spans(prediction)) and spans(prediction) in map(spans, gold))
    assert both(prediction, *gold)[1] == expected


def record(example_id: int, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"example_id": example_id, "annotations": list(annotations)}


def predicted(example_id: int, long: dict | None, score: float) -> dict[str, Any]:
    return answer(long) | {"example_id": example_id, "long_answer_score": score, "short_answers_score": 0.0}


def test_the_corpus_result_takes_the_best_threshold_and_recall_at_precision() -> None:
    yes, no = answer(span(1, 9)), answer()
    references = [record(1, yes, yes), record(2, yes, yes), record(3, yes, yes), record(4, no, no)]
    predictions = [
        predicted(1, span(1, 9), 4.0),  # right: precision 1, recall 1/3
        predicted(2, span(1, 8), 3.0),  # wrong: 1/2, 1/3
        predicted(3, span(1, 9), 2.0),  # right: 2/3, 2/3 and F1 2/3, the best
        predicted(4, span(1, 9), 1.0),  # nothing to find: 2/4, 2/3
    ]
    result = metrics.evaluate("natural_questions", {"predictions": predictions}, references)
    assert result["long-best-threshold-f1"] == pytest.approx(2 / 3)
    assert (result["long-best-threshold-precision"], result["long-best-threshold"]) == (pytest.approx(2 / 3), 2.0)
    assert result["long-recall-at-precision>=0.5"] == pytest.approx(2 / 3)
    assert result["long-recall-at-precision>=0.75"] == pytest.approx(1 / 3)
    assert result["long-precision-at-precision>=0.9"] == 1.0
    assert result["short-best-threshold-f1"] == 0.0
    assert len(result) == 20 and list(result)[0] == "long-best-threshold-f1"


def test_predictions_of_one_score_come_in_together() -> None:
    yes = answer(span(1, 9))
    references = [record(1, yes, yes), record(2, yes, yes)]
    predictions = [predicted(1, span(1, 9), 1.0), predicted(2, span(1, 8), 1.0)]
    for order in (predictions, predictions[::-1]):
        result = metrics.evaluate("natural_questions", {"predictions": order}, references)
        assert result["long-recall-at-precision>=0.75"] == 0.0
        assert result["long-best-threshold-precision"] == 0.5


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        ({"predictions": []}, [], "no question"),
        ({"predictions": []}, [record(1)], "1 example ids are not in both"),
        ({}, [record(1)], "lacks 'predictions'"),
        ({"predictions": [{"example_id": 1}]}, [record(1)], "lacks 'long_answer_score'"),
        ({"predictions": [predicted(1, span(5, 2), 0.0)]}, [record(1)], "from 5 to 2"),
        ({"predictions": [predicted(1, {"start_byte": 3}, 0.0)]}, [record(1)], "from 3 to -1"),
        ({"predictions": [predicted(1, None, 0.0) | {"yes_no_answer": "maybe"}]}, [record(1)], "YES, NO or NONE"),
        (
            {"predictions": [predicted(1, None, 0.0) | answer(short=[span(1, 2)], yes_no="YES")]},
            [record(1)],
            "not both",
        ),
    ],
)
def test_wrong_files_are_refused(predictions: Any, references: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metrics.evaluate("natural_questions", predictions, references)
