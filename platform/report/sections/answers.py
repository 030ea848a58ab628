"""Examples of answers for a report: which are shown is a fixed rule, so that nobody picks the nice ones.

Questions of the test side that were answered both unsteered and steered fall into four kinds: right both times, right
only when steered, right only when unsteered, wrong both times. Up to three of each kind are shown: those whose question
id has the smallest digest, at most one of a level as long as there are other levels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import InputError
from ...eval.conditions import STEERED, UNSTEERED
from ..content import Answer
from ..documents import Document

PER_KIND = 3
EXAMPLE_COLUMNS = ("question_id", "level", "split", "condition", "answers", "prediction", "em", "status")
_KINDS = {
    (False, True): "right only when steered",
    (True, False): "right only when unsteered",
    (True, True): "right both times",
    (False, False): "wrong both times",
}


class Asked(NamedTuple):
    """What the model read, and the accepted answers."""

    prompt: str
    answers: tuple[str, ...]


def examples(rows: Sequence[Mapping[str, Any]], asked: Mapping[str, Asked]) -> tuple[Answer, ...]:
    """At most `PER_KIND` answers of each kind from per-item `rows`; `asked`: question id -> the question."""
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
                    prompt=asked[name].prompt if name in asked else "",
                    gold=tuple(before["answers"]),
                    unsteered=before["prediction"] or "",
                    steered=after["prediction"] or "",
                    unsteered_right=_is_right(before),
                    steered_right=_is_right(after),
                )
            )
    return tuple(shown)


def recorded(rows: Sequence[Mapping[str, Any]], texts: Mapping[str | None, str]) -> dict[str, Asked] | None:
    """Question id -> what was read, from the run's own `texts` by their digests; None where one of them is missing."""
    read = [row for row in rows if row["status"] == "ok"]
    if any(row["prompt_digest"] not in texts for row in read):
        return None
    return {row["question_id"]: Asked(texts[row["prompt_digest"]], tuple(row["answers"])) for row in read}


def questions_of(run: Document, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Asked], str]:
    """Question id -> the question, for an evaluation's per-item `rows`; and what is missing in words, "" for nothing.

    For runs that kept no prompts: the questions are read or generated again, and their prompts are whole. If their
    answers are not those of the rows, they are others than the ones that were asked, and none is shown.
    """
    asked, missing = _questions(run)
    if any(row["question_id"] in asked and tuple(row["answers"]) != asked[row["question_id"]].answers for row in rows):
        return {}, "the prompts of the example answers: the questions are not those of this run any more"
    return asked, missing


def _questions(run: Document) -> tuple[dict[str, Asked], str]:
    config = run.at("config")
    mode = config.at("mode").text() if "mode" in config else ("dataset" if "questions" in config else "prompts")
    found: dict[str, Asked] = {}
    if mode != "dataset":
        from ...datasets import facts

        questions = facts.prompts(
            per_level=config.at("per_level").whole(), seed=config.at("seed").whole(), split="eval"
        )
        found |= {question.id: Asked(question.prompt or "", question.answers) for question in questions}
    if mode != "prompts" and "questions" in config:
        path = Path(config.at("questions").text())
        if not path.is_file():
            return found, f"the prompts of the example answers: {path} is not there any more"
        from ...datasets.prompting.prompts import prompt_text
        from ...datasets.prompting.templates import find
        from ...datasets.readers.own_prompts import read_questions

        try:
            questions = read_questions(path)
        except InputError as error:
            return found, f"the prompts of the example answers: {error}"
        template = find(config.at("template").text()) if "template" in config else None
        for question in questions:
            found[question.id] = Asked(prompt_text(question, template), question.answers)
    return found, ""


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
