"""How answers change in form under steering, whatever their score: length, repetition, and answers that never end.

An edit can raise exact match and still make a model ramble, repeat itself or fall silent; these are side effects that
a score does not show. All are read from the rows of answers alone:

- `n_new_tokens`: tokens that were written;
- `reached_limit`: whether the answer was ended by the limit on new tokens and not by the model;
- `empty`: whether nothing was said;
- `repeated_words`, `repeated_triples`: share of the words (of three words in a row) that the same answer has said
  before, 1 - distinct / all (the complement of distinct-n of Li et al. 2016). An answer without any is not counted.

Words are pieces between white space, so that the shares do not depend on a tokenizer. Pure functions of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError

if TYPE_CHECKING:
    from .summary import Measure

Row = Mapping[str, Any]
#: rows, the column that says what counts as one, and the column of the values -> estimates and paired differences
MeasureOf = Callable[[Sequence[Row], str, str], "Measure"]
LENGTH = "length"  # the stop reason of an answer that the limit ended


@dataclass(frozen=True)
class Behaviour:
    """The form of the answers of one group of questions; the differences are paired, like those of a score.

    n: questions. The fields are those of `form_of`, each over the questions that have a value.
    """

    n: int
    n_new_tokens: Measure
    reached_limit: Measure
    empty: Measure
    repeated_words: Measure
    repeated_triples: Measure


FIELDS = ("n_new_tokens", "reached_limit", "empty", "repeated_words", "repeated_triples")


def repeated_share(text: str, n: int) -> float | None:
    """Share of the runs of n words in `text` that stand in it before; None where it has no n words.

    Raises UsageError for n below 1.
    """
    if n < 1:
        raise UsageError(f"repetition is counted over runs of at least one word, not {n}")
    words = text.split()
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else None


def form_of(row: Row) -> dict[str, float | None]:
    """What one row of answers says of its answer's form; everything None where its status is not ok."""
    if row["status"] != "ok":
        return dict.fromkeys(FIELDS)
    said: str = row["prediction"] or ""
    reason, tokens = row["stop_reason"], row["n_new_tokens"]
    return {
        "n_new_tokens": None if tokens is None else float(tokens),
        "reached_limit": None if reason is None else float(reason == LENGTH),
        "empty": float(not said.strip()),
        "repeated_words": repeated_share(said, 1),
        "repeated_triples": repeated_share(said, 3),
    }


def summarise_behaviour(rows: Sequence[Row], measure: MeasureOf, unit: str = "origin") -> Behaviour:
    """The form of the answers in `rows`; questions with the same `unit` count as one."""
    formed = [{**row, **form_of(row)} for row in rows]
    return Behaviour(len({row[unit] for row in rows}), **{name: measure(formed, unit, name) for name in FIELDS})
