"""A classification in words: what was left out of each data set, and the tables of the sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.observer import Observer
from ...core.plain_text import Table


def tell_left_out(summary: Mapping[str, Any], observer: Observer) -> None:
    """Of each data set the files, the notes and the records that do not count."""
    for name, account in summary["datasets"].items():
        for note in account["left_out"]:
            observer.say(f"{name}: left out: {note}")
        for note, count in account["notes"].items():
            observer.say(f"{name}: {note}: {count}")
        if account["bad"]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in account["bad"].items())
            bad = sum(account["bad"].values())
            observer.warn(f"{name}: {bad} of {account['records']} records left out: {reasons}")


def summary_words(summary: Mapping[str, Any]) -> list[str | Table]:
    """The questions by data set, what the sample lacks, and a blank line."""
    data_sets = summary["datasets"]
    rows = [
        [category, entry["level"]]
        + [account["categories"].get(category, 0) for account in data_sets.values()]
        + [entry["ambiguous"], entry["taken"]]
        for category, entry in summary["categories"].items()
    ]
    rows.append(
        ["all", None]
        + [account["questions"] for account in data_sets.values()]
        + [sum(entry[key] for entry in summary["categories"].values()) for key in ("ambiguous", "taken")]
    )
    lines: list[str | Table] = [
        f"rule set {summary['rule_set']}, seed {summary['seed']}: questions by data set, and the sample"
    ]
    lines += ["", Table(["category", "level", *data_sets, "ambiguous", "taken"], rows)]
    if summary["shortfalls"]:
        short = [[s["category"], s["wanted"], s["taken"], s["why"]] for s in summary["shortfalls"]]
        lines += ["", Table(["short of", "wanted", "taken", "why"], short)]
    return [*lines, ""]
