"""What probes look for: labels of the tokens in the activation store, as numbers or classes.

Of the last token of each prompt: `answer_stated`, `correct`, `category`, `hops`, `distance` (tokens over which the fact
has to be kept) and `entity_position` (where its statement begins). Of tokens anywhere, at equal steps through all of
them: `in_fact`, `since_fact` (tokens since the fact ended) and `next_token_class`. Lengths are read as log(1 + n).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .probing import Integers, Kind, Target

FEWEST = 8  # rows of a class, below which it is left out: a fold has to have some


def class_of(text: str | None) -> str | None:
    """The sort of a token's text: what it looks like, as any tokenizer cuts it."""
    if text is None:
        return None
    bare = text.strip()
    if not bare:
        return "space or line break"
    if bare[0].isdigit():
        return "digit"
    if not bare[0].isalpha():
        return "punctuation"
    if text[0].isspace():
        return "begins a name" if bare[0].isupper() else "begins a word"
    return "begins a name" if bare[0].isupper() else "goes on"


#: name -> (kind, at the last token only, value of a token's row or None)
_Value = Callable[[Mapping[str, Any]], Any]
TARGETS: Mapping[str, tuple[Kind, bool, _Value]] = {
    "answer_stated": ("class", True, lambda row: row["answer_stated"]),
    "correct": ("class", True, lambda row: row["correct"]),
    "category": ("class", True, lambda row: row["category"]),
    "hops": ("class", True, lambda row: row["hops"]),
    "distance": ("number", True, lambda row: _log(row["since_fact"])),
    "entity_position": ("number", True, lambda row: _log(row["fact_start"])),
    "in_fact": ("class", False, lambda row: row["in_fact"] if row["answer_stated"] else None),
    "since_fact": ("number", False, lambda row: _log(row["since_fact"])),
    "next_token_class": ("class", False, lambda row: class_of(row["next_text"])),
}


def target_of(tokens: pa.Table, name: str, limit: int) -> Target | str:
    """The target `name` of the stored `tokens`, at most `limit` rows at equal steps, of classes as many of each; or why
    there is none."""
    kind, last, value = TARGETS[name]
    rows = _rows(tokens)
    chosen = [(number, found) for number, row in enumerate(rows) if (not last or row["from_end"] == 0)
              and (found := value(row)) is not None]  # fmt: skip
    classes: tuple[str, ...] = ()
    if kind == "class":
        members: dict[str, list[int]] = {}
        for number, found in chosen:
            members.setdefault(str(found), []).append(number)
        classes = tuple(sorted(word for word, its in members.items() if len(its) >= FEWEST))
        if len(classes) < 2:
            return f"fewer than two classes with {FEWEST} tokens each"
        share = max(FEWEST, limit // len(classes))  # a rare class is not crowded out by a frequent one
        of_class = [(number, code) for code, word in enumerate(classes) for number in _at_steps(members[word], share)]
        chosen = sorted(of_class)
    else:
        chosen = _at_steps(chosen, limit)
    values = np.array([found for _, found in chosen], np.float64)
    if kind == "number" and (len(values) < FEWEST or np.ptp(values) == 0):
        return f"fewer than {FEWEST} tokens, or the same number at all of them"
    at = np.array([number for number, _ in chosen], np.int64)
    groups = _codes([rows[i]["group"] or rows[i]["question_id"] for i, _ in chosen])
    if len(np.unique(groups)) < 3:
        return "fewer than three groups of questions"
    return Target(name, kind, at, values, groups, classes)


def token_and_position(tokens: pa.Table, rows: Integers, most: int = 128) -> NDArray[np.float64]:
    """What is known without a model, (n, d): which token it is (the `most` frequent ones, the rest together), and where
    it stands, from both ends and on a logarithmic scale."""
    chosen = tokens.take(pa.array(rows))
    ids = np.array(chosen["token"].to_pylist())
    names, counts = np.unique(ids, return_counts=True)
    kept = names[np.argsort(-counts, kind="stable")[:most]]
    position, left = (np.array(chosen[name].to_pylist(), np.float64) for name in ("position", "from_end"))
    where = [position, np.log1p(position), left, np.log1p(left)]
    return np.column_stack([(ids[:, None] == kept).astype(np.float64), *where])


_T = TypeVar("_T")


def _at_steps(values: list[_T], most: int) -> list[_T]:
    """At most so many of them, at equal steps."""
    n = min(most, len(values))
    return [values[i * len(values) // n] for i in range(n)]


def _rows(tokens: pa.Table) -> Sequence[dict[str, Any]]:
    names = ["question_id", "group", "category", "hops", "position", "from_end", "in_fact", "since_fact",
             "answer_stated", "correct", "text"]  # fmt: skip
    rows = tokens.select(names).to_pylist()
    start: dict[str, int] = {}
    for row in rows:
        if row["in_fact"]:
            start[row["question_id"]] = min(row["position"], start.get(row["question_id"], row["position"]))
    for number, row in enumerate(rows):
        row["fact_start"] = start.get(row["question_id"])
        later = rows[number + 1] if number + 1 < len(rows) else None
        follows = later is not None and later["question_id"] == row["question_id"]
        row["next_text"] = later["text"] if follows and later is not None else None
    return rows


def _codes(labels: Sequence[str]) -> Integers:
    return np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)


def _log(n: int | None) -> float | None:
    return None if n is None else float(np.log1p(n))
