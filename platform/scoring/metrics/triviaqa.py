"""TriviaQA: exact match and token F1 over the normalised aliases, with TriviaQA's own normaliser T.

T differs from the base normaliser in replacing punctuation by spaces instead of deleting it ("U.S." is "u s"), in
treating the underscore and four typographic marks as punctuation, and in nothing else. Gold answers are the
normalised aliases and the normalised human answers; `Value` itself is not consulted. The official F1 of two empty
texts is 0 while their EM is 1. Corpus results are percentages.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import InputError
from .metric import Example, Score, is_record, mapping_of, metric, text_of, texts_of
from .normalize import articles_to_spaces, best_over_golds, fold_whitespace

# the typographic quotes U+2018 and U+2019, the acute accent U+00B4 and the grave accent (already ASCII)
_PUNCTUATION_TO_SPACES = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4\u0060", " "))


def normalise_trivia(text: str) -> str:
    """The normaliser T. The underscore goes before lower-casing, like every other mark, to a space."""
    return fold_whitespace(articles_to_spaces(text.lower().translate(_PUNCTUATION_TO_SPACES)))


def gold_texts(answer: Mapping[str, Any] | Sequence[str] | str) -> list[str]:
    """The accepted texts: a list of (normalised) aliases as it is, or those of an Answer object in either schema.

    Raises InputError for anything else.
    """
    if not is_record(answer):
        return texts_of(answer, "the TriviaQA aliases")
    for aliases, human in (("NormalizedAliases", "HumanAnswers"), ("normalized_aliases", "human_answers")):
        if aliases in answer:
            said = texts_of(answer.get(human) or (), human)
            return [*texts_of(answer[aliases], aliases), *map(normalise_trivia, said)]
    raise InputError("a TriviaQA Answer needs NormalizedAliases (Hugging Face: normalized_aliases)")


@metric("triviaqa")
class TriviaQA:
    """Gold: the list of normalised aliases, or the Answer object of the data set; InputError for anything else."""

    example = Example(
        gold=["Denver Broncos", "Broncos"], right="the Denver Broncos", wrong="Carolina", score=Score(em=1.0, f1=1.0),
        result={"exact_match": 100.0, "f1": 100.0, "common": 1, "gold_len": 1}, per_second=5_000,
    )  # fmt: skip

    def score(self, prediction: str, gold: Mapping[str, Any] | Sequence[str] | str) -> Score:
        """EM and F1 against the best alias; aliases are normalised (once more) when compared."""
        golds = [normalise_trivia(text) for text in gold_texts(gold)]
        if not golds:
            raise InputError("a TriviaQA question needs at least one alias")
        em, f1 = best_over_golds(normalise_trivia(text_of(prediction, "a prediction")), golds)
        return Score(em=em, f1=f1)

    def evaluate(self, predictions: Mapping[str, str], references: Any) -> dict[str, float]:
        """`references`: the official file (Data, Domain, VerifiedEval), or a mapping of question key -> Answer.

        Keys are the question id in the Wikipedia domain and `<question id>--<file name>` in the Web domain, where a
        question counts once for each of its documents. -> exact_match, f1 (percent), common, denominator, pred_len,
        gold_len.
        """
        mapping_of(predictions, "TriviaQA predictions (question key -> text)")
        answers = keyed_answers(references)
        exact_match = f1 = 0.0
        common = 0
        for key, answer in answers.items():
            golds = gold_texts(answer)
            if key in predictions:
                common += 1
                score = self.score(text_of(predictions[key], f"the prediction for {key!r}"), golds)
                exact_match += score.em or 0.0
                f1 += score.f1 or 0.0
        return {
            "exact_match": 100.0 * exact_match / len(answers),
            "f1": 100.0 * f1 / len(answers),
            **_counts(common, predictions, answers),
        }


def oracle(predictions: Mapping[str, str], references: Any) -> dict[str, float]:
    """The official oracle score: the share of questions with a raw gold text inside the normalised prediction."""
    mapping_of(predictions, "TriviaQA predictions (question key -> text)")
    answers = keyed_answers(references)
    common = hits = 0
    for key, answer in answers.items():
        if key in predictions:
            common += 1
            prediction = normalise_trivia(text_of(predictions[key], f"the prediction for {key!r}"))
            hits += any(text in prediction for text in gold_texts(answer))
    return {"oracle_exact_match": 100.0 * hits / len(answers), **_counts(common, predictions, answers)}


def keyed_answers(references: Any) -> dict[str, Any]:
    """Question key -> Answer, with a verified file cut to its verified part first; InputError for another schema."""
    if is_record(references) and "Data" not in references:
        answers = dict(references)
    else:
        try:
            answers = dict(_official(references))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the references are not in the official TriviaQA schema (Data, Domain, VerifiedEval): {error!r}"
            ) from error
    if not answers:
        raise InputError("the TriviaQA references hold no question")
    return answers


def _official(references: Mapping[str, Any]) -> list[tuple[str, Any]]:
    verified, web = references.get("VerifiedEval", False), references["Domain"] != "Wikipedia"
    pairs: list[tuple[str, Any]] = []
    for datum in references["Data"]:
        if verified and not datum["QuestionPartOfVerifiedEval"]:
            continue
        if not web:
            pairs.append((datum["QuestionId"], datum["Answer"]))
            continue
        pages = [*datum.get("EntityPages", ()), *datum.get("SearchResults", ())]
        if verified:
            pages = [page for page in pages if page["DocPartOfVerifiedEval"]]
            if not pages:
                raise InputError(
                    f"TriviaQA question {datum['QuestionId']!r} is part of the verified set and has no verified "
                    "document; the file is damaged"
                )
        pairs.extend((f"{datum['QuestionId']}--{page['Filename']}", datum["Answer"]) for page in pages)
    return pairs


def _counts(common: int, predictions: Mapping[str, str], answers: Mapping[str, Any]) -> dict[str, float]:
    return {
        "common": common,
        "denominator": len(answers),
        "pred_len": len(predictions),
        "gold_len": len(answers),
    }
