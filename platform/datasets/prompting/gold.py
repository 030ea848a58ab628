"""What a question is scored against: the gold that its metric asks for, from what the record holds.

Metrics differ in the form of their gold (a list of texts, one text, answer objects) and in whether there may be none.
`gold` gives the form that `mplat.eval.metrics.score(question.metric, prediction, gold)` takes. A metric that is not
named here takes the list of accepted texts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...scoring.metrics import scores_unanswerable
from ...scoring.metrics.triviaqa import normalise_trivia
from ..records import Question


def gold(question: Question) -> Any:
    """The gold of `question`, None where no prediction for it can be scored: `missing_gold` says why."""
    return None if missing_gold(question) else _FORMS.get(question.metric, _texts)(question)


def missing_gold(question: Question) -> str:
    """Why there is nothing to score a prediction against, or "" where there is."""
    if question.answerable is False and not question.answers and scores_unanswerable(question.metric):
        return ""  # nothing is the right answer
    if question.answerable is False:
        return "the data set marks it as not answerable from its context"
    if question.metric in _TYPED and not any(answer.texts() for answer in question.typed_answers):
        return "no typed answer is given"
    if not any(answer.strip() for answer in question.answers):
        return "no answer is given"
    return ""


def _texts(question: Question) -> list[str]:
    return list(question.answers)


def _first(question: Question) -> str:
    return question.answers[0]


def _normalised_aliases(question: Question) -> list[str]:
    return list(dict.fromkeys(normalise_trivia(answer) for answer in question.answers))


def _answer_objects(question: Question) -> list[dict[str, Any]]:
    return [answer.as_object() for answer in question.typed_answers]


_FORMS: dict[str, Callable[[Question], Any]] = {
    "hotpotqa": _first,
    "triviaqa": _normalised_aliases,
    "drop": _answer_objects,
}
_TYPED = frozenset({"drop"})
