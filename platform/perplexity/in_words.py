"""A perplexity run in words: the plan before it, the table of sets after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.plain_text import Table, with_interval

if TYPE_CHECKING:
    from .perplexity_run import PerplexityPlan
    from .perplexity_summary import SetResult


def plan_lines(plan: PerplexityPlan) -> list[str]:
    """Which documents are read by which model."""
    report, documents = plan.reading.report, plan.reading.documents
    there = sum(count.documents for count in report.sets.values())
    chosen = "" if len(documents) == there else f", {len(documents)} of them chosen"
    return [
        f"model: {plan.model.name}, {str(plan.model.dtype).removeprefix('torch.')}",
        f"documents: {there} of {len(report.sets)} sets{chosen}",
    ]


def warnings(plan: PerplexityPlan) -> list[str]:
    """What was left out of the documents, if anything was."""
    report = plan.reading.report
    if not report.bad:
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in report.bad.items())
    return [f"{sum(report.bad.values())} of {report.records} records left out: {reasons}"]


def result_words(plan: PerplexityPlan, sets: Sequence[SetResult]) -> list[str | Table]:
    """How it was measured, and a row for each set."""
    measures = list(sets[0].estimates)
    rows = [
        [of_set.name, of_set.scored, f"{of_set.bytes:,}"]
        + [with_interval(e.mean, e.low, e.high, ".4g", ".4g") for e in of_set.estimates.values()]
        for of_set in sets
    ]
    return [_title(plan), Table(["set", "documents", "bytes", *measures], rows)]


def _title(plan: PerplexityPlan) -> str:
    how = {
        "carried": "the state carried through each document",
        "harness": f"rolling windows of {plan.window} tokens, as in lm-evaluation-harness",
    }
    return f"{plan.model.name}, {how[plan.config.method]}; {plan.config.confidence:.0%} intervals over documents"
