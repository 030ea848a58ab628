"""The two rule sets that sort a question into a category, each with the reason in words.

`evidence` (the default) counts real sentences and annotated supporting sentences, and says where another reading of
the same counts would give another category. `source` is the older rule set: plain sentence counts, context length and
question words. Both use known hop counts first. A data set has the categories it maps to; a verdict outside them
becomes the one of the nearest level (the lower of two), and the reason says so. A data set that maps to a single
category needs no rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ..data_set import DataSet
from ..records import LEVEL_OF_CATEGORY, Question
from .evidence import Evidence

_HOP_WORDS = re.compile(r"\b(?:how many|which|why|how)\b", re.IGNORECASE)
_LONG_WORDS, _STRESS_WORDS = 150, 300

# Kinds of ambiguity, as counted in the summary.
BETWEEN_BANDS = "between_bands"  # more facts than long context names (5-7), fewer than a stress test (10)
LONGER_IN_WORDS = "longer_in_words"  # the length of the context in words alone would give a higher category
FEWER_PARAGRAPHS = "fewer_paragraphs_than_facts"  # several supporting facts share a paragraph: hops are at most facts
SEVERAL_SENTENCES = "evidence_in_several_sentences"  # the marked answers do not lie in one sentence
MORE_HOPS = "more_hops_than_three"  # there is no category for four hops
NO_CONTEXT = "no_context"  # the data set maps to categories of long contexts, and this question has none
OUTSIDE_MAPPING = "outside_mapping"  # the rule names a category that the data set does not map to


class Verdict(NamedTuple):
    """The category of a question and how it came about."""

    category: str
    reason: str
    n_facts: int
    hops: int | None
    ambiguities: tuple[str, ...]  # kinds


class _Ruling(NamedTuple):
    category: str
    because: str
    n_facts: int
    doubts: tuple[tuple[str, str], ...] = ()  # kind, in words


Rule = Callable[[Question, Evidence, DataSet], _Ruling]


def judge(question: Question, counts: Evidence, rule_set: str, data_set: DataSet) -> Verdict:
    """The verdict of `rule_set` (a key of `RULE_SETS`) on a question of `data_set`.

    `hops` is the annotated count, else the number of paragraphs with evidence, else None; only the former is a rule's
    business, so that judging a judged question changes nothing.
    """
    categories = data_set.categories
    hops = _known_hops(question, data_set)
    hops = hops if hops is not None else counts.support_paragraphs or None
    if len(categories) == 1:
        n_facts = counts.supports if data_set.annotated_supports else counts.sentences
        return Verdict(categories[0], f"{question.dataset} maps to {categories[0]} only", n_facts, hops, ())
    ruling = RULE_SETS[rule_set](question, counts, data_set)
    category, doubts = ruling.category, list(ruling.doubts)
    if category not in categories:
        category = min(categories, key=lambda name: (abs(_level(name) - _level(ruling.category)), _level(name)))
        doubts.append((OUTSIDE_MAPPING, f"by the rule {ruling.category}, which {question.dataset} does not map to"))
    if not counts.sentences:
        doubts.append((NO_CONTEXT, "there is no context"))
    reason = ruling.because + "".join(f"; ambiguous: {words}" for _, words in doubts)
    return Verdict(category, reason, ruling.n_facts, hops, tuple(kind for kind, _ in doubts))


def _known_hops(question: Question, data_set: DataSet) -> int | None:
    return question.hops if data_set.annotated_hops else None


def _level(category: str) -> int:
    return LEVEL_OF_CATEGORY[category] or 0


def _by_hops(hops: int) -> str:
    return "simple_recall" if hops <= 1 else "two_hop" if hops == 2 else "three_hop"


def _by_supports(facts: int) -> str:
    if facts >= 10:
        return "stress_test"
    return _by_hops(facts) if facts <= 4 else "long_context"


def _source(question: Question, counts: Evidence, data_set: DataSet) -> _Ruling:
    if (hops := _known_hops(question, data_set)) is not None:
        return _Ruling(_by_hops(hops), f"{hops} hops", counts.supports)
    if data_set.annotated_supports:
        return _Ruling(_by_supports(counts.supports), f"{counts.supports} supporting facts", counts.supports)
    facts, words = counts.naive_sentences, counts.words
    found = _HOP_WORDS.search(question.question)
    if facts >= 10 or words >= _STRESS_WORDS:
        category, rule = "stress_test", f"10 facts or {_STRESS_WORDS} words reached"
    elif 5 <= facts <= 7 or words >= _LONG_WORDS:
        category, rule = "long_context", f"5-7 facts or {_LONG_WORDS}-{_STRESS_WORDS - 1} words"
    elif 2 <= facts <= 4 and found:
        category, rule = "two_hop", f"2-4 facts and {found[0].lower()!r} in the question"
    elif 5 <= facts <= 9:
        category, rule = "three_hop", "5-9 facts"
    else:
        category, rule = "simple_recall", "no other rule holds"
    return _Ruling(category, f"{facts} facts, {words} words: {rule}", facts)


def _evidence(question: Question, counts: Evidence, data_set: DataSet) -> _Ruling:
    if (hops := _known_hops(question, data_set)) is not None:
        beyond = ((MORE_HOPS, "no category has more than three"),) if hops > 3 else ()
        return _Ruling(_by_hops(hops), f"{hops} hops in the decomposition", counts.supports, beyond)
    doubts: list[tuple[str, str]] = []
    if data_set.annotated_supports:
        facts, paragraphs = counts.supports, counts.support_paragraphs
        if facts > paragraphs:
            doubts.append((FEWER_PARAGRAPHS, f"they lie in {paragraphs} paragraphs, so {paragraphs} hops may do"))
        return _Ruling(_by_supports(facts), f"{facts} supporting sentences", facts, tuple(doubts))
    facts, words = counts.sentences, counts.words
    category = "stress_test" if facts >= 10 else "long_context" if facts >= 5 else "simple_recall"
    by_words = "stress_test" if words >= _STRESS_WORDS else "long_context" if words >= _LONG_WORDS else "simple_recall"
    if facts in (8, 9):
        doubts.append((BETWEEN_BANDS, "between 5-7 and 10 sentences"))
    if _level(by_words) > _level(category):
        doubts.append((LONGER_IN_WORDS, f"{words} words alone would be {by_words}"))
    if counts.supports > 1:
        doubts.append((SEVERAL_SENTENCES, f"the marked answers lie in {counts.supports} sentences"))
    return _Ruling(category, f"{facts} sentences in the context", facts, tuple(doubts))


RULE_SETS: dict[str, Rule] = {"evidence": _evidence, "source": _source}
