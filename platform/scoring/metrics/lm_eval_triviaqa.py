"""lm-evaluation-harness's triviaqa: exact match with any raw alias.

The continuation ends at a newline, a full stop or a comma and is stripped; both sides are lower-cased and lose their
punctuation. Articles and inner whitespace stay: "The Beatles" is not "Beatles" unless an alias says so. Letters that
grow in lower case are cut as the harness cuts them, so whether they match depends on the longest alias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import InputError
from .harness import HarnessTask, exact_match, stop_at
from .metric import Example, Score, is_record, metric, texts_of

STOPS = ("\n", ".", ",")


@metric("lm_eval_triviaqa")
class LmEvalTriviaQA(HarnessTask):
    """Gold: the list of raw aliases, or the Answer object in either schema; InputError for anything else."""

    reported, id_field = {"exact_match": "em"}, "question_id"
    example = Example(
        gold=["The Denver Broncos", "Broncos"], right="the Denver Broncos", wrong="Carolina", score=Score(em=1.0),
        result={"exact_match": 1.0},
    )  # fmt: skip

    def score(self, prediction: str, gold: Mapping[str, Any] | Sequence[str] | str) -> Score:
        """em is 1.0 where an alias is met; f1 is None."""
        aliases = texts_of(_aliases(gold), "the TriviaQA aliases")
        if not aliases:
            raise InputError("a TriviaQA question needs at least one alias")
        return Score(em=exact_match(stop_at(prediction, STOPS).strip(), aliases))

    def gold_of(self, document: Mapping[str, Any]) -> Any:
        """The answer object."""
        return document["answer"]


def _aliases(gold: Any) -> Any:
    if not is_record(gold):
        return gold
    for key in ("aliases", "Aliases"):
        if key in gold:
            return gold[key]
    raise InputError("a TriviaQA answer needs its raw aliases: Aliases (Hugging Face: aliases)")
