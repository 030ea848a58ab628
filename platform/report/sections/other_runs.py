"""What a report takes from a classification."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..content import CategoryRow, Classification
from ..documents import Document, read_json

SUMMARY_SUFFIX = ".summary.json"  # of the file that `mplat classify` writes beside its table


def read_classification(path: Path) -> Classification:
    """The summary that `mplat classify` wrote."""
    summary = read_json(path, "make it again with `mplat classify`")
    accounts = dict(summary.at("datasets").entries())
    rows = []
    for category, entry in summary.at("categories").entries():
        level = entry.at("level")
        found = []
        for account in accounts.values():
            by_category = account.at("categories")
            found.append(by_category.at(category).whole() if category in by_category else 0)
        rows.append(
            CategoryRow(
                category=category,
                level=None if level.value is None else level.whole(),
                by_dataset=tuple(found),
                ambiguous=entry.at("ambiguous").whole(),
                taken=entry.at("taken").whole(),
            )
        )
    return Classification(
        source=str(path),
        rule_set=summary.at("rule_set").text(),
        datasets=tuple(accounts),
        rows=tuple(rows),
        notes=tuple(_notes(summary, accounts)),
    )


def _notes(summary: Document, accounts: dict[str, Document]) -> Iterator[str]:
    for name, account in accounts.items():
        bad = {reason: count.whole() for reason, count in account.at("bad").entries()}
        reasons = ", ".join(f"{reason} {count}" for reason, count in bad.items())
        yield (
            f"{name}: {account.at('questions').whole()} questions of {account.at('records').whole()} records"
            + (f"; left out: {reasons}" if reasons else "")
        )
    for shortfall in summary.at("shortfalls").elements():
        yield (
            f"{shortfall.at('category').text()}: {shortfall.at('taken').whole()} of {shortfall.at('wanted').whole()} "
            f"wanted, {shortfall.at('why').text()}"
        )
