"""Several models side by side on the same questions: how large they are, what they carry from token to token, and how
many answers they get right.

Each model reads the questions in its own tokens; an answer is right where all of its tokens are the most probable ones
(`answers`). Only questions count that every model can read with finite scores, so that all numbers are about the same
ones; what is compared with the first model is compared in pairs, by groups of questions.

A state is what a model keeps of a text: `state_bytes` before the first token, and after the longest prompt, which is
the same for a recurrence and grows with the text for attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from ...scoring.statistics import holm, mean_interval, paired_difference
from ..engine.answers import score_answers
from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import passes
from ..engine.step import Job, StepSettings, Tables, step
from ..engine.view import BarPart, Column, TablePart, View
from ..methods.question_halves import group_of
from ..methods.sites_across_models import names_of

if TYPE_CHECKING:
    from ...models import LanguageModel


class Settings(StepSettings):
    small = {"resamples": 100}

    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100, le=1_000_000)
    """random signs behind intervals and p-values"""


SCHEMA = pa.schema([
    column("model", pa.string(), "name of the model"),
    column("arch", pa.string(), "its architecture"),
    column("parameters", pa.int64(), "of the model, tied ones once"),
    column("active_parameters", pa.int64(), "that one token uses: fewer than all where experts are chosen"),
    column("blocks", pa.int32(), "how many"),
    column("width", pa.int32(), "of the residual stream"),
    column("state_bytes", pa.int64(), "kept of one text before its first token"),
    column("state_bytes_longest", pa.int64(), "kept of one text after the longest prompt"),
    column("longest", pa.int32(), "tokens of that prompt"),
    column("accuracy", pa.float64(), "share of answers right, teacher-forced"),
    column("accuracy_low", pa.float64(), "lower bound of its interval, by groups of questions"),
    column("accuracy_high", pa.float64(), "upper bound"),
    column("logprob", pa.float64(), "mean log-probability of the right answer, nats"),
    column("logprob_low", pa.float64(), "lower bound of its interval"),
    column("logprob_high", pa.float64(), "upper bound"),
    column("difference", pa.float64(), "accuracy less that of the first model, in pairs; null for it"),
    column("difference_low", pa.float64(), "lower bound of its interval"),
    column("difference_high", pa.float64(), "upper bound"),
    column("p", pa.float64(), "two-sided p-value of no difference"),
    column("p_holm", pa.float64(), "the same corrected for the number of further models"),
    column("n_questions", pa.int32(), "questions that every model reads with finite scores"),
    column("status", pa.string(), "ok, or model_nonfinite where no question is left"),
])  # fmt: skip

BATCH_SCHEMA = pa.schema([
    ("id", pa.string()), ("logprob", pa.float64()), ("correct", pa.bool_()), ("tokens", pa.int32()),
    ("state_bytes", pa.int64()),
])  # fmt: skip

VIEW = View(
    "Models side by side on the same questions",
    "Only questions count that every model can read. Differences are from the first model, in pairs; the state is what "
    "one text leaves behind after the longest prompt.",
    (
        BarPart(x="model", y="accuracy", low="accuracy_low", high="accuracy_high", only={"status": "ok"},
                title="Share of answers right", label="share right"),
        TablePart(
            columns=(
                Column("model"), Column("arch", "architecture"), Column("parameters"), Column("blocks"),
                Column("state_bytes_longest", "state, bytes"), Column("longest", "after tokens"),
                Column("accuracy", "share right", "accuracy_low", "accuracy_high"),
                Column("logprob", "log-probability, nats", "logprob_low", "logprob_high"),
                Column("difference", "share right, difference", "difference_low", "difference_high", form="signed",
                       absent="–"),
                Column("p_holm", "p", form="p", absent="–"), Column("n_questions", "questions"), Column("status"),
            ),
        ),
    ),
)  # fmt: skip


@step("model_overview", settings=Settings, seeded=True, others=(...,), view=VIEW, cost=passes(1.2, seconds=0.3))
def overview(job: Job) -> Tables:
    """Size, state and right answers of each model on the same questions."""
    answers = [job.map(batch_answers, BATCH_SCHEMA, {}, model=number).to_pylist() for number in range(len(job.models))]
    by_id = [{row["id"]: row for row in rows} for rows in answers]
    common = [
        item for item in job.items
        if all(item.id in rows and rows[item.id]["logprob"] is not None for rows in by_id)
    ]  # fmt: skip
    groups = [group_of(item) for item in common]
    rows = [_row(job, number, [by_id[number][item.id] for item in common], groups, answers[number])
            for number in range(len(job.models))]  # fmt: skip
    if common:
        right = [np.array([float(rows[item.id]["correct"]) for item in common]) for rows in by_id]
        found = [
            paired_difference(
                mine, right[0], seed=job.seed, confidence=job.settings.confidence, n_resamples=job.settings.resamples,
                groups=groups, shares=True,
            )
            for mine in right[1:]
        ]  # fmt: skip
        for row, difference, p in zip(rows[1:], found, holm([d.p for d in found]), strict=True):
            row |= {"difference": difference.mean, "difference_low": difference.low,
                    "difference_high": difference.high, "p": difference.p, "p_holm": p}  # fmt: skip
    return {"": pa.Table.from_pylist(rows, schema=SCHEMA)}


def _row(
    job: Job,
    number: int,
    counted: Sequence[Mapping[str, Any]],
    groups: Sequence[str],
    every: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    model = job.models[number]
    longest = max(every, key=lambda row: (row["state_bytes"] or 0, row["tokens"]))
    row: dict[str, Any] = {
        "model": names_of(job.models)[number], "arch": model.config.arch, "parameters": model.n_parameters,
        "active_parameters": model.n_active_parameters, "blocks": model.n_layers, "width": model.config.d_model,
        "state_bytes": model.zero_state(1).n_bytes, "state_bytes_longest": longest["state_bytes"],
        "longest": longest["tokens"], "n_questions": len(counted),
        "status": "ok" if counted else "model_nonfinite",
    }  # fmt: skip
    if not counted:
        return row
    how = {"seed": job.seed, "confidence": job.settings.confidence, "n_resamples": job.settings.resamples}
    right = mean_interval([float(r["correct"]) for r in counted], groups=groups, shares=True, **how)
    likely = mean_interval([r["logprob"] for r in counted], groups=groups, shares=False, **how)
    return row | {
        "accuracy": right.mean, "accuracy_low": right.low, "accuracy_high": right.high,
        "logprob": likely.mean, "logprob_low": likely.low, "logprob_high": likely.high,
    }  # fmt: skip


@torch.no_grad()
def batch_answers(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Scores of the answers of one batch, and what the longest of its prompts leaves behind."""
    answered = batch.answered()
    scores = score_answers(model(answered.tokens, answered.mask), answered)
    longest = max(range(len(batch.items)), key=lambda i: len(batch.items[i].prompt))
    text = torch.tensor([batch.items[longest].prompt], device=batch.device)
    _, state = model(text, last_only=True, return_state=True)  # alone: padding would count in a growing state
    rows = []
    for number, item in enumerate(batch.items):
        fine = bool(scores.finite[number])
        rows.append({
            "id": item.id, "tokens": len(item.prompt),
            "logprob": float(scores.logprob[number]) if fine else None,
            "correct": bool(scores.correct[number]) if fine else None,
            "state_bytes": state.n_bytes if number == longest else None,
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)
