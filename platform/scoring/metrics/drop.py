"""DROP: exact match and the numeracy-aware F1 of answers that are a number, a date, or one or several spans.

1. A span is split at every single space or hyphen; each token is lower-cased, freed of punctuation unless it is a
   number (what Python's float() takes), written as str(float(.)) if it is one then, and freed of articles.
2. EM is 1 if the sets of normalised spans and the numbers of spans are equal.
3. The bag of a span is the set of its words. A gold bag with a number scores 0 against a bag that shares no number
   with it; otherwise the score is the F1 of the two sets, an empty bag having precision (or recall) 1.
4. Gold and predicted bags are assigned to each other one to one for the largest total; F1 is that total over the
   larger number of spans, rounded to 2 decimals.
5. The answer and every validated answer are candidates unless their first text is empty; the maxima of EM and F1 are
   taken separately.

Rounding is numpy's, as in the official script, and not Python's: 0.075 is 0.08.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...core.errors import InputError
from .metric import Example, Score, is_list, is_record, mapping_of, metric, texts_of
from .normalize import articles_to_spaces, fold_whitespace

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACE_OR_HYPHEN = re.compile("[ -]")

#: an answer object, as an example
ANSWER = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": ["Denver Broncos"]}
Bag = frozenset[str]


class Spans(NamedTuple):
    """An answer ready for comparison: normalised spans, the bag of each, and the numbers in each bag."""

    texts: list[str]
    bags: list[Bag]
    numbers: list[Bag]


@metric("drop")
class DROP:
    """Gold: the answer object (number, spans, date), or a list of them: the answer, then the validated answers.

    Raises InputError for what is no prediction, gold or official file.
    """

    example = Example(
        gold=[ANSWER], right="the Denver Broncos", wrong="Carolina", score=Score(em=1.0, f1=1.0),
        result={"global_em": 1.0, "global_f1": 1.0}, predictions={"1": "Denver Broncos"},
        references={"passage": {"qa_pairs": [{"query_id": "1", "answer": ANSWER}]}}, per_second=2_000,
    )  # fmt: skip

    def score(self, prediction: str | Sequence[str], gold: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Score:
        """EM and F1 against the best candidate; `prediction` is a text, or the list of predicted spans."""
        _, em, f1 = best_candidate(texts_of(prediction, "a DROP prediction"), candidates(gold))
        return Score(em=em, f1=f1)

    def evaluate(
        self, predictions: Mapping[str, str | Sequence[str]], references: Any, *, by_type: bool = False
    ) -> dict[str, float]:
        """`predictions`: query_id -> text or list of spans. `references`: the official nested file.

        -> global_em, global_f1, fractions of all questions; a missing prediction is 0. With `by_type` also what the
        official script prints: <type>_count, <type>_share, <type>_em, <type>_f1 (fractions) for date, number, span
        and spans, the type being that of the last candidate with the best EM and F1 so far.
        """
        mapping_of(predictions, "DROP predictions (query_id -> text or list of spans)")
        rows: list[tuple[str, float, float]] = []
        for query_id, gold in _questions(references):
            accepted = candidates(gold)
            if query_id in predictions:
                spans = texts_of(predictions[query_id], f"the DROP prediction for {query_id!r}")
                rows.append(best_candidate(spans, accepted))
            else:
                rows.append((accepted[0][1], 0.0, 0.0))
        if not rows:
            raise InputError("the DROP references hold no question; give the official file of passages")
        result = {"global_em": _mean([em for _, em, _ in rows]), "global_f1": _mean([f1 for _, _, f1 in rows])}
        for kind in sorted({kind for kind, _, _ in rows}) if by_type else ():
            members = [row for row in rows if row[0] == kind]
            result[f"{kind}_count"] = len(members)
            result[f"{kind}_share"] = len(members) / len(rows)
            result[f"{kind}_em"] = _mean([em for _, em, _ in members])
            result[f"{kind}_f1"] = _mean([f1 for _, _, f1 in members])
        return result


def best_candidate(
    prediction: Sequence[str], accepted: Sequence[tuple[Sequence[str], str]]
) -> tuple[str, float, float]:
    """Type, EM and F1 of a prediction (step 5). Where every candidate is empty there is no type: "none"."""
    predicted = spans_of(prediction)
    kind, em, f1 = "none", 0.0, 0.0
    for texts, candidate_kind in accepted:
        if texts[0].strip():
            one_em, one_f1 = compare(predicted, spans_of(texts))
            em, f1 = max(em, one_em), max(f1, one_f1)
            if (em, f1) == (one_em, one_f1):
                kind = candidate_kind
    return kind, em, f1


def normalise_span(text: str) -> str:
    """Step 1."""
    return " ".join(filter(None, map(_token, _SPACE_OR_HYPHEN.split(text))))


def _token(token: str) -> str:
    token = token.lower()
    if token.isascii() and token.isalpha() and token not in _ARTICLES_AND_NUMBERS:
        return token  # plain words, the usual case, change in no step
    if not is_number(token):
        token = token.translate(_DELETE_PUNCTUATION)
    if is_number(token):
        token = str(float(token))
    return fold_whitespace(articles_to_spaces(token))


_ARTICLES_AND_NUMBERS = frozenset({"a", "an", "the", "nan", "inf", "infinity"})


def is_number(text: str) -> bool:
    """Whether Python's float() takes it: 3, 1e3, 1_000, nan, inf and the digits of all scripts."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def spans_of(texts: Iterable[str]) -> Spans:
    """Steps 1 and 3 for the spans of one answer."""
    normalised = [normalise_span(text) for text in texts]
    bags = [frozenset(text.split()) for text in normalised]
    return Spans(normalised, bags, [frozenset(filter(is_number, bag)) for bag in bags])


def compare(predicted: Spans, gold: Spans) -> tuple[float, float]:
    """EM and F1 of one candidate (steps 2 to 4)."""
    n_predicted, n_gold = len(predicted.texts), len(gold.texts)
    em = float(n_predicted == n_gold and set(predicted.texts) == set(gold.texts))
    scores = [
        [
            bag_f1(bag, other) if not numbers or numbers & other_numbers else 0.0
            for other, other_numbers in zip(predicted.bags, predicted.numbers, strict=True)
        ]
        for bag, numbers in zip(gold.bags, gold.numbers, strict=True)
    ]
    return em, round_half_even(_mean_assigned(scores, max(n_predicted, n_gold)))


def bag_f1(gold: Bag, predicted: Bag) -> float:
    """F1 of two sets of words; an empty side has precision or recall 1."""
    shared = len(gold & predicted)
    prec = shared / len(predicted) if predicted else 1.0
    recall = shared / len(gold) if gold else 1.0
    return 2 * prec * recall / (prec + recall) if prec or recall else 0.0


def _mean_assigned(scores: list[list[float]], n_spans: int) -> float:
    """Largest total of a one-to-one assignment of rows to columns, over `n_spans`."""
    if len(scores) == 1:
        return max(scores[0], default=0.0) / n_spans
    if len(scores[0]) <= 1:
        return max((row[0] for row in scores if row), default=0.0) / n_spans
    import numpy as np  # where there is one span on either side, as nearly always, none of this is needed
    from scipy.optimize import linear_sum_assignment

    matrix, per_span = np.array(scores), np.zeros(n_spans)
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    per_span[rows] = matrix[rows, columns]
    return float(per_span.mean())


def round_half_even(value: float) -> float:
    """Two decimals as numpy rounds: the product with 100, not the value itself, is rounded, halves to even."""
    return round(value * 100) / 100


def candidates(gold: Any) -> list[tuple[list[str], str]]:
    """(texts, type) of the answer object, or of each in a list; never empty, and no candidate is without a text.

    Raises InputError for a gold that is neither.
    """
    answers = [gold] if is_record(gold) else list(gold) if is_list(gold) else []
    if not answers:
        raise InputError(
            "the gold of a DROP question is its answer object {number, spans, date}, or a list of such objects: the "
            f"answer, then the validated answers; this is {gold!r:.80}"
        )
    return [_texts(answer) for answer in answers]


def _texts(answer: Any) -> tuple[list[str], str]:
    if not is_record(answer):
        raise InputError(
            f"a DROP answer is an object {{number, spans, date}}, not {type(answer).__name__}; a text alone does not "
            "say whether it is one span or several"
        )
    if answer.get("number"):
        return [str(answer["number"])], "number"
    if answer.get("spans"):
        spans = texts_of(answer["spans"], "the spans of a DROP answer")
        return spans, "span" if len(spans) == 1 else "spans"
    date = answer.get("date")
    if not is_record(date):
        raise InputError(f"a DROP answer has a number, spans or a date, and this one has none: {dict(answer)!r:.80}")
    # A part that is null is the word None, as the official script formats it.
    return [" ".join(f"{date.get(part, '')}" for part in ("day", "month", "year"))], "date"


def _questions(references: Any) -> Iterator[tuple[str, list[Any]]]:
    try:
        for passage in references.values():
            for pair in passage["qa_pairs"]:
                yield pair["query_id"], [pair["answer"], *(pair.get("validated_answers") or ())]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "the references are not in the official DROP schema (passage id > qa_pairs > query_id, answer, "
            f"validated_answers): {error!r}"
        ) from error


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
