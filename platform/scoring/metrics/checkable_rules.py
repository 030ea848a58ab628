"""Whether an answer keeps rules of form that a machine can check: so many words, capital letters, a given ending.

A gold is a list of rules, each a name and, for most, a value behind a space:

    words 3            exactly so many words             starts_with Now    this beginning
    items 3            so many things between commas     ends_with later    this end, a full stop aside
    upper, lower       letters in this case only         contains sea       this in it, letter case apart
    number             digits and nothing else           without e          this nowhere in it, letter case apart
    quoted             double quotes around it           json name          a JSON object with this key

An answer is right where it keeps all of them; an empty one keeps none. What it says is not judged. There is no F1.
The idea of rules that a program verifies is IFEval's (Zhou et al. 2023); these are not its rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ...core.errors import InputError, suggest
from .begins_with import share_right
from .metric import Example, Score, metric, text_of, texts_of

Rule = Callable[[str, str], bool]


def _items(text: str, value: str) -> bool:
    items = [item.strip() for item in text.rstrip(".").split(",")]
    return len(items) == int(value) and all(items)


def _json(text: str, value: str) -> bool:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and value in content


RULES: dict[str, Rule] = {
    "words": lambda text, value: len(text.split()) == int(value),
    "items": _items,
    "upper": lambda text, _: text.isupper(),
    "lower": lambda text, _: text.islower(),
    "number": lambda text, _: text.isdecimal(),
    "quoted": lambda text, _: len(text) > 2 and text[0] == text[-1] == '"',
    "starts_with": lambda text, value: text.startswith(value),
    "ends_with": lambda text, value: text.rstrip(".").endswith(value),
    "contains": lambda text, value: value.casefold() in text.casefold(),
    "without": lambda text, value: value.casefold() not in text.casefold(),
    "json": _json,
}
COUNTS = {"words", "items"}
WITHOUT_VALUE = {"upper", "lower", "number", "quoted"}


def keeps(text: str, rule: str) -> bool:
    """Whether `text` keeps one rule. Raises InputError where it is no rule."""
    name, _, value = rule.partition(" ")
    if name not in RULES:
        raise InputError(f"there is no rule {name!r}; {suggest(name, RULES)}")
    if bool(value) == (name in WITHOUT_VALUE) or (name in COUNTS and not value.isdecimal()):
        wanted = "no value" if name in WITHOUT_VALUE else "a whole number" if name in COUNTS else "a value"
        raise InputError(f"rule {name} takes {wanted}, not {value!r}")
    text = text.strip()
    return bool(text) and RULES[name](text, value)


@metric("checkable_rules")
class CheckableRules:
    """Gold: the list of rules. Raises InputError for what is none."""

    example = Example(
        gold=["words 3", "starts_with Now"], right="Now or never", wrong="Now", score=Score(em=1.0),
        result={"accuracy": 1.0, "total": 1},
    )  # fmt: skip

    def score(self, prediction: str, gold: Sequence[str] | str) -> Score:
        """EM: whether all of `gold` are kept."""
        rules = texts_of(gold, "the rules")
        if not rules:
            raise InputError("an answer needs at least one rule to keep")
        kept = [keeps(text_of(prediction, "a prediction"), rule) for rule in rules]
        return Score(em=float(all(kept)))

    def evaluate(self, predictions: Any, references: Any) -> dict[str, float]:
        """Both: question -> text or texts; a question without a prediction is wrong. -> accuracy, total, missing."""
        return share_right(self, predictions, references)
