"""What changes along a training: how far right answers are remembered and how far computed, and when.

The models are the one that is analysed and, with `--compare`, checkpoints of its training (RUN@* names all of them),
put in the order of their training steps. For every one: loss and accuracy, on what was trained on and on what was held
out where that is known, the sum of squared weights and effective ranks. Where the questions are all of addition modulo
p (`mplat train` with the source modular_addition writes them), also the losses of `methods.fourier`, with the key
frequencies of the last checkpoint; as their control, the same with as many frequencies drawn from the others.

Phases are changes of these curves (`methods.phases`): memorisation where the loss of what is trained on falls, circuit
formation where the excluded loss rises from its least value, cleanup where the loss of what is held out falls from its
largest.

Parts: `measures`, a row for each checkpoint and measure; `frequencies`; `phases`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from ...models.lending import label
from ..engine.columns import column
from ..engine.effort import passes
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Job, StepSettings, Tables, step
from ..engine.view import Column, LinePart, MapPart, TablePart, View
from ..methods.addition import (
    NO_ADDITION,
    NO_SIDES,
    NUMBERS_SCHEMA,
    Addition,
    addition_of,
    batch_numbers,
    grid,
    sides_of,
)
from ..methods.answer_table import ANSWER_SCHEMA, batch_answer_table
from ..methods.fourier import answer_losses, frequencies, frequency_norms, key_frequencies, sum_waves
from ..methods.phases import PHASES, phase_of
from ..methods.progress_measures import FOURIER, control_sets, progress_measures
from ..methods.sparsity_measures import gini
from ..methods.weight_measures import effective_rank, matrices, sum_of_squares

if TYPE_CHECKING:
    from ...models import LanguageModel


class Settings(StepSettings):
    small = {"permutations": 99}
    share: float = Field(0.95, gt=0, lt=1)
    """of the variance in waves of a + b: the fewest frequencies of the last checkpoint that hold it are the key ones"""
    draws: int = Field(5, ge=1, le=100)
    """random sets of other frequencies, of equal number, as the control"""
    permutations: int = Field(999, ge=19, le=100_000)
    """shuffled curves behind the p-value of each change"""
    confidence: float = Field(0.95, gt=0.5, lt=1)


#: measure -> what it is a kind of, by which figures are drawn
KINDS = {
    "loss": "nats an answer", "train_loss": "nats an answer", "held_out_loss": "nats an answer",
    "restricted_loss": "nats an answer", "excluded_loss": "nats an answer", "excluded_loss_control": "nats an answer",
    "restricted_loss_control": "nats an answer", "accuracy": "share right", "train_accuracy": "share right",
    "held_out_accuracy": "share right", "gap": "nats, held out less trained on", "embedding_gini": "Gini coefficient",
    "logit_gini": "Gini coefficient", "sum_of_squares": "sum of squares of the weights that decay",
    "embedding_rank": "effective rank", "matrix_rank": "effective rank",
}  # fmt: skip
_OF_SIDES = ("train_loss", "held_out_loss", "train_accuracy", "held_out_accuracy", "gap")
_OF_ANSWERS = ("loss", "accuracy", *_OF_SIDES)
_CHECKPOINT = [
    column("checkpoint", pa.int32(), "place of the model in the order of training, from 0"),
    column("model", pa.string(), "the model"),
    column("step", pa.int64(), "optimizer steps of its training; null where it does not say"),
    column("at", pa.int64(), "step; the place where these are no checkpoints of one training"),
]
_REASON = column("reason", pa.string(), "why there is no value")
MEASURES_SCHEMA = pa.schema([
    *_CHECKPOINT,
    column("tokens", pa.int64(), "tokens of its training; null where it does not say"),
    column("measure", pa.string(), "what is measured"),
    column("kind", pa.string(), "its unit"),
    column("value", pa.float64(), "its value"),
    column("status", pa.string(), "ok; not_applicable: see reason; model_nonfinite"),
    _REASON,
])  # fmt: skip
FREQUENCIES_SCHEMA = pa.schema([
    *_CHECKPOINT,
    column("frequency", pa.int32(), "k: waves of 2 pi k / p"),
    column("share", pa.float64(), "of the logits' variance over pairs: what is a wave of a + b of this frequency"),
    column("embedding", pa.float64(), "norm of this frequency in the embeddings of the numbers"),
    column("key", pa.bool_(), "whether it is a key frequency of the last checkpoint"),
    column("status", pa.string(), "ok; not_applicable: see reason; model_nonfinite"),
    _REASON,
])  # fmt: skip
PHASES_SCHEMA = pa.schema([
    column("phase", pa.string(), "memorisation, circuit formation, cleanup; or the curve's own change"),
    column("measure", pa.string(), "the curve whose change it is"),
    column("n_checkpoints", pa.int32(), "points of the curve in which the change is looked for"),
    column("begins", pa.float64(), "training step at which the change begins"),
    column("begins_low", pa.float64(), "earliest step that is not told from it"),
    column("begins_high", pa.float64(), "latest one"),
    column("ends", pa.float64(), "training step at which it ends"),
    column("ends_low", pa.float64(), "earliest step that is not told from it"),
    column("ends_high", pa.float64(), "latest one"),
    column("before", pa.float64(), "the measure before the change"),
    column("after", pa.float64(), "and after it"),
    column("explained", pa.float64(), "share of the curve's variance that the change explains"),
    column("p", pa.float64(), "share of shuffled curves that change as clearly"),
    column("status", pa.string(), "ok; not_applicable: see reason"),
    _REASON,
])  # fmt: skip

VIEW = View(
    "What changes along a training",
    "Measures at each checkpoint over the logarithm of the step. Excluded loss: of what is trained on, without the key "
    "frequencies, so without what is computed; where it rises the rule takes the place of what is remembered. The "
    "controls take as many other frequencies. Key frequencies are those of the last checkpoint: before a rule is found "
    "they mean nothing.",
    (
        LinePart(part="measures", x="at", y="value", group="measure", each=("kind",), only={"status": "ok"}, log_x=True,
                 title="{kind}", x_label="training step", label="value"),
        TablePart(
            part="phases", title="Phases",
            columns=(
                Column("phase"), Column("measure"), Column("begins", "begins", "begins_low", "begins_high"),
                Column("ends", "ends", "ends_low", "ends_high"), Column("before"), Column("after"),
                Column("explained"), Column("p", form="p"), Column("status"), Column("reason", absent=""),
            ),
        ),
        MapPart(part="frequencies", rows="frequency", columns="at", value="share", only={"status": "ok"},
                title="Logits in waves of a + b", label="share of the variance"),
        TablePart(part="measures", title="All values", folded=True, columns=tuple(map(Column, (
                  "model", "step", "measure", "value", "status"))), top=400),
    ),
)  # fmt: skip

Row = dict[str, Any]


class _Checkpoint(NamedTuple):
    """number: of the model in the job. about: its columns. single: whether all are checkpoints of one training."""

    number: int
    model: LanguageModel
    about: Row
    single: bool


@step("grokking", settings=Settings, seeded=True, others=(...,), view=VIEW, cost=passes(1.5, seconds=0.3))
def grokking(job: Job) -> Tables:
    """Memory and rule along a training: losses with and without key frequencies, weights, ranks, and their phases."""
    checkpoints = _in_order(job)
    addition = addition_of(job.items) if not job.excluded else None
    measures: list[Row] = []
    waves: list[Row] = []
    values: list[dict[str, float]] = []
    found = [_addition_values(job, one, addition) if addition else _answer_values(job, one) for one in checkpoints]
    keys = _keys(found, job.settings.share)
    control = control_sets(addition.p, keys, job.settings.draws, job.seed) if addition else []
    for one, answers in zip(checkpoints, found, strict=True):
        numbers, missing = dict(answers.values), dict(answers.missing)
        if addition is None:
            missing |= dict.fromkeys(FOURIER, (NOT_APPLICABLE, NO_ADDITION))
        elif answers.logits is None:
            missing |= dict.fromkeys(FOURIER, ("model_nonfinite", "a logit is not finite"))
        else:
            more = progress_measures(answers.logits, addition, keys, control)
            numbers |= more.values
            missing |= {name: (NOT_APPLICABLE, reason) for name, reason in more.missing.items()}
            waves += _wave_rows(one, answers.logits, addition, keys)
        numbers |= _weight_values(one.model, tuple(job.layers), addition)
        values.append(numbers)
        measures += _measure_rows(one, numbers, missing)
    if not waves:
        reason = NO_ADDITION if addition is None else "logits are not finite"
        waves = [{"status": NOT_APPLICABLE if addition is None else "model_nonfinite", "reason": reason}]
    return {
        "measures": pa.Table.from_pylist(measures, schema=MEASURES_SCHEMA),
        "frequencies": pa.Table.from_pylist(waves, schema=FREQUENCIES_SCHEMA),
        "phases": pa.Table.from_pylist(_phase_rows(job, checkpoints, values), schema=PHASES_SCHEMA),
    }


def _in_order(job: Job) -> list[_Checkpoint]:
    """The models by training step, each once: an exported model is its last checkpoint. In the order given where one of
    them does not say its step, or where several say the same and are not: these are of no single training."""
    models: list[tuple[int, LanguageModel, int | None]] = []
    for number, model in enumerate(job.models):
        step = None if model.training_record is None else model.training_record.step
        if step is None or not any(step == other and _same(model, m) for _, m, other in models):
            models.append((number, model, step))
    known = [step for _, _, step in models if step is not None]
    single = len(set(known)) == len(models)
    if single:
        models.sort(key=lambda entry: entry[2] or 0)
    found: list[_Checkpoint] = []
    for place, (number, model, step) in enumerate(models):
        about: Row = {
            "checkpoint": place, "model": label(model), "step": step, "at": step if single else place,
            "tokens": None if model.training_record is None else model.training_record.tokens,
        }  # fmt: skip
        found.append(_Checkpoint(number, model, about, single))
    return found


def _same(a: LanguageModel, b: LanguageModel) -> bool:
    """Whether two models have the same weights."""
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


class _Answers(NamedTuple):
    """What a checkpoint says. missing: measure -> status and reason. logits (p, p, p) of an addition."""

    values: Mapping[str, float]
    missing: Mapping[str, tuple[str, str]]
    logits: Tensor | None = None


def _addition_values(job: Job, one: _Checkpoint, addition: Addition) -> _Answers:
    logits = grid(job.map(batch_numbers, NUMBERS_SCHEMA, {"p": addition.p}, model=one.number), addition)
    if logits is None:
        return _Answers({}, dict.fromkeys(_OF_ANSWERS, ("model_nonfinite", "a logit is not finite")))
    losses = answer_losses(logits)
    a = torch.arange(addition.p)
    right = logits.argmax(-1) == (a[:, None] + a) % addition.p
    sides = None if addition.trained is None else addition.trained.flatten().tolist()
    return _split(losses.flatten().tolist(), right.flatten().tolist(), sides)._replace(logits=logits)


def _answer_values(job: Job, one: _Checkpoint) -> _Answers:
    """From the questions; train and held-out loss from the checkpoint's own record where the questions do not say."""
    rows = {r["question_id"]: r for r in job.map(batch_answer_table, ANSWER_SCHEMA, {}, model=one.number).to_pylist()}
    items = [item for item in job.items if item.id in rows and rows[item.id]["status"] == "ok"]
    if not items:
        return _Answers({}, dict.fromkeys(_OF_ANSWERS, ("model_nonfinite", "no question has finite scores")))
    sides = sides_of(items)
    losses, right = ([rows[item.id][name] for item in items] for name in ("logprob", "correct"))
    found = _split([-value for value in losses], right, sides)
    record = one.model.training_record
    if sides is None and record is not None and record.train_loss is not None and record.held_out_loss is not None:
        own = {"train_loss": record.train_loss, "held_out_loss": record.held_out_loss}
        own["gap"] = own["held_out_loss"] - own["train_loss"]
        missing = {name: why for name, why in found.missing.items() if name not in own}
        return _Answers({**found.values, **own}, missing)
    return found


def _split(losses: Sequence[float], right: Sequence[bool], sides: Sequence[bool] | None) -> _Answers:
    """Means over all questions, and over each side."""
    values = {"loss": _mean(losses), "accuracy": _mean(right)}
    if sides is None:
        return _Answers(values, dict.fromkeys(_OF_SIDES, (NOT_APPLICABLE, NO_SIDES)))
    for name, side in (("train", True), ("held_out", False)):
        values[f"{name}_loss"] = _mean([x for x, s in zip(losses, sides, strict=True) if s is side])
        values[f"{name}_accuracy"] = _mean([x for x, s in zip(right, sides, strict=True) if s is side])
    values["gap"] = values["held_out_loss"] - values["train_loss"]
    return _Answers(values, {})


def _mean(values: Sequence[float] | Sequence[bool]) -> float:
    return math.fsum(values) / len(values)


def _keys(found: Sequence[_Answers], share: float) -> tuple[int, ...]:
    """Key frequencies of the last checkpoint that has logits."""
    logits = next((answers.logits for answers in reversed(found) if answers.logits is not None), None)
    return () if logits is None else key_frequencies(sum_waves(logits).power, share)


def _weight_values(model: LanguageModel, layers: tuple[int, ...], addition: Addition | None) -> dict[str, float]:
    """Of the weights alone; of the embeddings of the numbers where these are added."""
    table = model.embedding.weight if addition is None else model.embedding.weight[: addition.p]
    ranks = [rank for _, matrix in matrices(model, layers) if (rank := effective_rank(matrix)) is not None]
    values: dict[str, float | None] = {
        "sum_of_squares": sum_of_squares(model), "embedding_rank": effective_rank(table),
        "matrix_rank": _mean(ranks) if ranks else None,
        "embedding_gini": None if addition is None else float(gini(frequency_norms(table))),
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def _measure_rows(one: _Checkpoint, values: Mapping[str, float], missing: Mapping[str, tuple[str, str]]) -> list[Row]:
    rows: list[Row] = []
    for name, kind in KINDS.items():
        row = {**one.about, "measure": name, "kind": kind}
        if name in values and math.isfinite(values[name]):
            rows.append(row | {"value": values[name], "status": "ok"})
        else:
            status, reason = missing.get(name, (NOT_APPLICABLE, "the model has nothing to measure it on"))
            rows.append(row | {"status": status, "reason": reason})
    return rows


def _wave_rows(one: _Checkpoint, logits: Tensor, addition: Addition, keys: Sequence[int]) -> list[Row]:
    waves = sum_waves(logits)
    norms = frequency_norms(one.model.embedding.weight[: addition.p]).tolist()
    about = {name: one.about[name] for name in ("checkpoint", "model", "step", "at")}
    return [
        about | {"frequency": k, "share": float(waves.power[k - 1]) / waves.total if waves.total > 0.0 else 0.0,
                 "embedding": norms[k - 1], "key": k in keys, "status": "ok"}
        for k in frequencies(addition.p)
    ]  # fmt: skip


def _phase_rows(job: Job, checkpoints: Sequence[_Checkpoint], values: Sequence[Mapping[str, float]]) -> list[Row]:
    settings: Settings = job.settings
    rows: list[Row] = []
    for name, curve in PHASES.items():
        by_step = {
            one.about["step"]: of_one[curve.measure]
            for one, of_one in zip(checkpoints, values, strict=True)
            if one.single and curve.measure in of_one
        }
        found = phase_of(curve, by_step, seed=job.seed, draws=settings.permutations, confidence=settings.confidence)
        row = {"phase": name, "measure": curve.measure, "n_checkpoints": found.points}
        if found.ramp is None:
            rows.append(row | {"status": NOT_APPLICABLE, "reason": found.reason})
        else:
            rows.append(row | found.ramp._asdict() | {"status": "ok"})
    return rows
