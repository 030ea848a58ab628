"""A refinement in words: the plan before it, the table of sets after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.plain_text import Table

if TYPE_CHECKING:
    from .refine_run import RefinePlan, RefineResult


def plan_lines(plan: RefinePlan) -> list[str]:
    """Which texts are scored by which models."""
    report = plan.reading.report
    models = {"reference": plan.reference, "teacher": plan.teacher}
    return [
        *(f"{role}: {model.name}, {model.n_parameters:,} parameters" for role, model in models.items()),
        f"documents: {len(plan.reading.documents):,} of {len(report.sets)} sets in {len(plan.chunks):,} chunks of at "
        f"most {plan.config.chunk} tokens",
        f"kept: {plan.config.keep:g} of the chunks, by nats a {plan.per}",
    ]


def warnings(plan: RefinePlan) -> list[str]:
    """What was left out of the documents, and two models that are one."""
    report, found = plan.reading.report, []
    if report.bad:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.bad.items())
        found.append(f"{sum(report.bad.values())} of {report.records} records left out: {reasons}")
    if plan.same_model:
        found.append("reference and teacher are the same model: every score is 0, and the first chunks are kept")
    return found


def result_words(plan: RefinePlan, result: RefineResult) -> list[str | Table]:
    """What either model makes of the texts, and a row for each set."""
    rows = [
        [c.name, c.documents, c.chunks, f"{c.bytes:,}", c.kept_chunks, f"{c.kept_bytes:,}",
         f"{c.kept_chunks / c.chunks:.2f}"]
        for c in result.sets
    ]  # fmt: skip
    small, large = result.nats_per_byte["reference"], result.nats_per_byte["teacher"]
    words: list[str | Table] = [] if small is None or large is None else [
        f"nats a byte: reference {small:.4g}, teacher {large:.4g}"
    ]  # fmt: skip
    lowest = "" if result.threshold is None else f", lowest score {result.threshold:.4g} nats a {plan.per}"
    head = ["set", "documents", "chunks", "bytes", "kept chunks", "kept bytes", "share of chunks"]
    return [*words, f"kept: {result.records:,} records{lowest}", Table(head, rows)]


def after_warnings(plan: RefinePlan, result: RefineResult) -> list[str]:
    """A teacher that has nothing to teach."""
    small, large = result.nats_per_byte["reference"], result.nats_per_byte["teacher"]
    if plan.same_model or small is None or large is None or large < small:
        return []
    return [
        f"the teacher predicts these texts no better than the reference ({large:.4g} and {small:.4g} nats a byte); "
        "are they exchanged?"
    ]
