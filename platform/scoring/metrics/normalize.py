"""The base normaliser N and token overlap, shared by SQuAD, HotpotQA and the metrics built on them.

N: lower-case, delete ASCII punctuation (neighbours join), replace whole-word articles by a space, fold whitespace.
It does nothing else on purpose: no Unicode normalisation, no accent folding, no typographic quotes or dashes, no
number words. `str.lower` rather than casefold, and the word boundary of the article rule is the Unicode one.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import NamedTuple

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def articles_to_spaces(text: str) -> str:
    """Every whole word a, an, the (lower case only) replaced by one space."""
    return _ARTICLE.sub(" ", text)


def fold_whitespace(text: str) -> str:
    """Words joined by single spaces; words are what Unicode whitespace separates."""
    return " ".join(text.split())


def normalise(text: str) -> str:
    """The base normaliser N."""
    return fold_whitespace(articles_to_spaces(text.lower().translate(_DELETE_PUNCTUATION)))


class Overlap(NamedTuple):
    """Token F1 with its two parts."""

    f1: float
    prec: float
    recall: float


NO_OVERLAP = Overlap(0.0, 0.0, 0.0)


def token_overlap(prediction: Sequence[str], gold: Sequence[str]) -> Overlap:
    """Overlap of two token lists as multisets; zero where nothing is shared, two empty lists included."""
    left: dict[str, int] = {}
    for token in gold:
        left[token] = left.get(token, 0) + 1
    shared = 0
    for token in prediction:  # several times as fast as Counter & Counter for answers of a few words
        if count := left.get(token, 0):
            left[token] = count - 1
            shared += 1
    if shared == 0:
        return NO_OVERLAP
    prec, recall = shared / len(prediction), shared / len(gold)
    return Overlap(2 * prec * recall / (prec + recall), prec, recall)


def best_over_golds(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """(max of EM, max of F1) of normalised texts, the two maxima taken independently of each other."""
    tokens = prediction.split()
    em = float(prediction in golds)
    return em, max(token_overlap(tokens, gold.split()).f1 for gold in golds)


def best_with_no_answer(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """The same where nothing is an answer: if prediction and a gold both normalise to nothing, F1 is 1 too."""
    em, f1 = best_over_golds(prediction, golds)
    return (em, f1) if prediction or not em else (1.0, 1.0)
