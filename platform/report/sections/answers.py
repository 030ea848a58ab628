"""Examples of answers for a report: which are shown is a fixed rule, so that nobody picks the nice ones.

Questions of the test side that were answered both unsteered and steered fall into four kinds: right both times, right
only when steered, right only when unsteered, wrong both times. Up to three of each kind are shown: those whose question
id has the smallest digest, at most one of a level as long as there are other levels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ...eval.conditions import STEERED, UNSTEERED
from ..content import Answer

PER_KIND = 3
EXAMPLE_COLUMNS = ("question_id", "level", "split", "condition", "answers", "prediction", "em", "status",
                   "prompt_digest")  # fmt: skip
_KINDS = {
    (False, True): "right only when steered",
    (True, False): "right only when unsteered",
    (True, True): "right both times",
    (False, False): "wrong both times",
}


def examples(rows: Sequence[Mapping[str, Any]], prompts: Mapping[str, str]) -> tuple[Answer, ...]:
    """At most `PER_KIND` answers of each kind from per-item `rows`; `prompts`: digest -> what was read."""
    by_condition: dict[str, dict[str, Mapping[str, Any]]] = {UNSTEERED: {}, STEERED: {}}
    for row in rows:
        if row["condition"] in by_condition and row["status"] == "ok" and row["em"] is not None:
            by_condition[row["condition"]][row["question_id"]] = row
    kinds: dict[str, list[str]] = {kind: [] for kind in _KINDS.values()}
    for name in sorted(by_condition[UNSTEERED].keys() & by_condition[STEERED].keys(), key=_rank):
        kinds[_KINDS[_is_right(by_condition[UNSTEERED][name]), _is_right(by_condition[STEERED][name])]].append(name)
    shown = []
    for kind, names in kinds.items():
        for name in _spread(names, by_condition[UNSTEERED]):
            before, after = by_condition[UNSTEERED][name], by_condition[STEERED][name]
            shown.append(
                Answer(
                    kind=kind,
                    id=name,
                    level=before["level"],
                    prompt=prompts.get(before["prompt_digest"], ""),
                    gold=tuple(before["answers"]),
                    unsteered=before["prediction"] or "",
                    steered=after["prediction"] or "",
                    unsteered_right=_is_right(before),
                    steered_right=_is_right(after),
                )
            )
    return tuple(shown)


def _spread(names: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The first `PER_KIND` names, levels taking turns."""
    chosen: list[str] = []
    waiting = list(names)
    while waiting and len(chosen) < PER_KIND:
        seen: set[Any] = set()
        later = []
        for name in waiting:
            if rows[name]["level"] in seen:
                later.append(name)
            else:
                seen.add(rows[name]["level"])
                chosen.append(name)
        waiting = later
    return sorted(chosen[:PER_KIND], key=lambda name: (rows[name]["level"] or 0, name))


def _is_right(row: Mapping[str, Any]) -> bool:
    return row["em"] == 1.0


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
