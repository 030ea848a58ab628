"""How a measure falls with size or with training: several models of one family on the same questions, and the power law
that goes through them.

Sizes are numbers of parameters, or tokens of training where the models are checkpoints of one run. Both laws are
fitted, y = A N^-alpha and y = E + A N^-alpha (`methods.power_law`), to the mean over the questions that every model
reads.
Intervals are of other questions, whole groups drawn anew; that other trainings scatter too they do not say. `p` is the
control: the share of all orders of the models in which the measure falls as steeply.

Parts: `models`, what each measures and what it costs; `fits`, a row for each measure and law; `curves`, what is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from ...core.errors import UsageError
from ...models.lending import label
from ...scoring.statistics import bootstrap_mean
from ..engine.columns import column
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Job, StepSettings, Tables, named_once, step
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.answer_table import ANSWER_SCHEMA, batch_answer_table
from ..methods.power_law import FEWEST, PowerLaw, curvature, fit_power_law, judge, resampled_means

if TYPE_CHECKING:
    from ...models import LanguageModel

Measure = Literal["loss", "loss_per_token", "error", "improbability"]
Against = Literal["parameters", "active_parameters", "tokens"]


class Settings(StepSettings):
    small = {"resamples": 100}
    against: Against = "parameters"
    """size: all parameters, those that one token uses, or tokens of training (checkpoints of `mplat train` know it)"""
    measures: Annotated[tuple[Measure, ...], AfterValidator(named_once)] = ("loss", "error")
    """nats an answer, or a token of it; share not answered right; 1 - probability of the answer"""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(2000, ge=100, le=100_000)


_SIZE = column("size", pa.float64(), "what the setting `against` names: parameters, or tokens of training")
MODELS_SCHEMA = pa.schema([
    column("model", pa.string(), "the model"),
    column("arch", pa.string(), "its architecture"),
    column("parameters", pa.int64(), "all of them, a tied head once"),
    column("active_parameters", pa.int64(), "those that one token uses; all of another program's model"),
    column("training_steps", pa.int64(), "optimizer steps of its training; null where the model does not say"),
    column("training_tokens", pa.int64(), "tokens of its training; null where the model does not say"),
    _SIZE,
    column("n_questions", pa.int32(), "questions that every model reads"),
    column("loss", pa.float64(), "nats of a right answer, mean over questions"),
    column("loss_low", pa.float64(), "lower end of its bootstrap interval over groups of questions"),
    column("loss_high", pa.float64(), "upper end"),
    column("loss_per_token", pa.float64(), "nats a token of the answers, mean over questions"),
    column("accuracy", pa.float64(), "share of questions answered right"),
    column("accuracy_low", pa.float64(), "lower end of its bootstrap interval over groups of questions"),
    column("accuracy_high", pa.float64(), "upper end"),
    column("state_bytes", pa.float64(), "bytes that a sequence leaves behind to be continued, mean over questions"),
    column("loss_per_parameter", pa.float64(), "loss over parameters: what a row of the table paid for its size"),
    column("status", pa.string(), "ok; model_nonfinite: no question is read by all models with finite scores"),
])  # fmt: skip
FITS_SCHEMA = pa.schema([
    column("measure", pa.string(), "loss, loss_per_token, error or improbability"),
    column("law", pa.string(), "power law, or power law with a floor"),
    column("against", pa.string(), "what size is"),
    column("n_models", pa.int32(), "models"),
    column("n_questions", pa.int32(), "questions that every model reads"),
    column("alpha", pa.float64(), "exponent: the measure, less the floor, falls as size to the power -alpha"),
    column("alpha_low", pa.float64(), "lower end of its bootstrap interval over groups of questions; null where some "
           "resample has no value above 0, or there is one group"),
    column("alpha_high", pa.float64(), "upper end"),
    column("amplitude", pa.float64(), "A, the measure less the floor at size 1"),
    column("floor", pa.float64(), "E, what no size takes away; null for the law without one"),
    column("floor_low", pa.float64(), "lower end of its interval"),
    column("floor_high", pa.float64(), "upper end"),
    column("bounded", pa.float64(), "share of the resamples in which the points do not tell floor and exponent: one of "
           "them lies at the end of what is possible; null for the law without a floor"),
    column("rms", pa.float64(), "root of the mean squared residual of ln(measure)"),
    column("r2", pa.float64(), "share of the variance of ln(measure) that the law explains"),
    column("worst", pa.string(), "the model of the largest residual"),
    column("worst_residual", pa.float64(), "ln(fitted) - ln(measured) of it"),
    column("curvature", pa.float64(), "second derivative of ln(measure) by ln(size): 0 for a power law without a "
           "floor, above it where one is near"),
    column("curvature_low", pa.float64(), "lower end of its interval"),
    column("curvature_high", pa.float64(), "upper end"),
    column("alpha_least", pa.float64(), "least exponent of the fits without one of the models; null where these are "
           "too few"),
    column("alpha_most", pa.float64(), "largest one"),
    column("p", pa.float64(), "share of the orders of the models in which the measure falls as steeply with size"),
    column("status", pa.string(), "ok; not_applicable: see reason; model_nonfinite"),
    column("reason", pa.string(), "why there is no fit"),
])  # fmt: skip
CURVES_SCHEMA = pa.schema([
    column("measure", pa.string(), "what is drawn"),
    column("series", pa.string(), "measured, or one of the laws"),
    _SIZE,
    column("value", pa.float64(), "the measure, or what the law says"),
    column("low", pa.float64(), "lower end of the interval of what is measured"),
    column("high", pa.float64(), "upper end"),
    column("status", pa.string(), "ok; model_nonfinite"),
])  # fmt: skip

LAWS = {False: "power law", True: "power law with a floor"}
VIEW = View(
    "How measures fall with size",
    "The mean over the questions that every model reads, by size, and two laws through it. Intervals are of other "
    "questions; that other trainings scatter too they do not say. Without a curvature that differs from 0 there is no "
    "sign of a floor, and with few models the exponent depends on each of them (the range without one).",
    (
        LinePart(
            part="curves", x="size", y="value", low="low", high="high", group="series", each=("measure",),
            only={"status": "ok"}, log_x=True, log_y=True, title="{measure} by size", x_label="size", label="measure",
        ),
        TablePart(
            part="fits", title="Fitted laws",
            columns=(
                Column("measure"), Column("law"), Column("against", "size"), Column("n_models", "models"),
                Column("alpha", "exponent", "alpha_low", "alpha_high"), Column("floor", "floor", "floor_low",
                "floor_high", absent="–"), Column("rms", "rms of ln"), Column("curvature", "curvature", "curvature_low",
                "curvature_high", form="signed"), Column("alpha_least", "least without one", absent="–"),
                Column("alpha_most", "most without one", absent="–"), Column("p", "p of the order", form="p"),
                Column("status"), Column("reason", absent=""),
            ),
        ),
        TablePart(
            part="models", title="What each model is worth, and costs", sort=("size",),
            columns=(
                Column("model"), Column("parameters"), Column("training_tokens", "tokens of training", absent="–"),
                Column("loss", "nats an answer", "loss_low", "loss_high"),
                Column("accuracy", "share right", "accuracy_low", "accuracy_high"),
                Column("state_bytes", "bytes of state a sequence"), Column("loss_per_parameter", "nats a parameter"),
            ),
        ),
    ),
)  # fmt: skip


def check(asked: Asked) -> None:
    """`Step.check`: sizes are known."""
    for model in (asked.model, *asked.others):
        if size_of(model, asked.settings.against) is None:
            raise UsageError(
                f"against=tokens: {model.name} does not say on how many tokens it was trained; checkpoints of "
                "`mplat train` (RUN@STEP) do. Leave the model out, or take against=parameters"
            )


def size_of(model: LanguageModel, against: Against) -> int | None:
    """The size of a model; None where it does not say, or has seen no token yet."""
    if against == "tokens":
        record = model.training_record
        return (record.tokens or None) if record is not None else None
    return model.n_active_parameters if against == "active_parameters" else model.n_parameters


@dataclass(frozen=True)
class _Answers:
    """Of the questions that every model reads, (questions, models): loss in nats, tokens, whether right, state bytes.
    groups: of the questions."""

    loss: NDArray[np.float64]
    tokens: NDArray[np.float64]
    correct: NDArray[np.float64]
    state_bytes: NDArray[np.float64]
    groups: Sequence[str]

    def values(self, measure: Measure) -> NDArray[np.float64]:
        """(questions, models): what the measure is the mean of."""
        every = {"loss": self.loss, "loss_per_token": self.loss / self.tokens, "error": 1.0 - self.correct,
                 "improbability": -np.expm1(-self.loss)}  # fmt: skip
        return every[measure]


@step("scaling", settings=Settings, seeded=True, check=check, others=("another model", ...), view=VIEW)
def scaling(job: Job) -> Tables:
    """How loss and accuracy fall with parameters or training tokens over several models, with fitted power laws."""
    settings: Settings = job.settings
    answers = _answers(job)
    sizes = np.array([size_of(model, settings.against) for model in job.models], np.float64)
    names = _names(job.models)
    models = [row | {"model": name, "size": float(size)} for row, name, size in
              zip(_model_rows(job, answers), names, sizes, strict=True)]  # fmt: skip
    fits: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for measure in settings.measures:
        of_measure, drawn = _fit_rows(job, measure, sizes, answers, names)
        fits, curves = fits + of_measure, curves + drawn
    return {
        "models": pa.Table.from_pylist(models, schema=MODELS_SCHEMA),
        "fits": pa.Table.from_pylist(fits, schema=FITS_SCHEMA),
        "curves": pa.Table.from_pylist(curves, schema=CURVES_SCHEMA),
    }


def _names(models: Sequence[LanguageModel]) -> list[str]:
    """Labels; one that an earlier model has gets its place behind it."""
    labels = [label(model) for model in models]
    return [name if name not in labels[:i] else f"{name} ({i + 1})" for i, name in enumerate(labels)]


def _answers(job: Job) -> _Answers:
    tables = [job.map(batch_answer_table, ANSWER_SCHEMA, {}, model=number) for number in range(len(job.models))]
    said = [{row["question_id"]: row for row in table.to_pylist() if row["status"] == "ok"} for table in tables]
    common = [item for item in job.items if all(item.id in of_model for of_model in said)]
    rows = [[of_model[item.id] for of_model in said] for item in common]

    def numbers(name: str) -> NDArray[np.float64]:
        values = [[float(row[name]) for row in of_question] for of_question in rows]
        return np.array(values, np.float64).reshape(len(rows), len(said))

    groups = [item.group or item.id for item in common]
    return _Answers(-numbers("logprob"), numbers("tokens"), numbers("correct"), numbers("state_bytes"), groups)


def _model_rows(job: Job, answers: _Answers) -> list[dict[str, Any]]:
    options = {"seed": job.seed, "confidence": job.settings.confidence, "n_resamples": job.settings.resamples}
    rows: list[dict[str, Any]] = []
    for number, model in enumerate(job.models):
        record = model.training_record
        row: dict[str, Any] = {
            "arch": model.config.arch, "parameters": model.n_parameters, "active_parameters": model.n_active_parameters,
            "training_steps": None if record is None else record.step,
            "training_tokens": None if record is None else record.tokens,
            "n_questions": len(answers.groups), "status": "ok" if answers.groups else "model_nonfinite",
        }  # fmt: skip
        if answers.groups:
            loss = bootstrap_mean(answers.loss[:, number], groups=answers.groups, **options)
            right = bootstrap_mean(answers.correct[:, number], groups=answers.groups, **options)
            row |= {
                "loss": loss.mean, "loss_low": loss.low, "loss_high": loss.high,
                "loss_per_token": float(answers.values("loss_per_token")[:, number].mean()),
                "accuracy": right.mean, "accuracy_low": right.low, "accuracy_high": right.high,
                "state_bytes": float(answers.state_bytes[:, number].mean()),
                "loss_per_parameter": float(answers.loss[:, number].mean()) / model.n_parameters,
            }  # fmt: skip
        rows.append(row)
    return rows


def _fit_rows(
    job: Job, measure: Measure, sizes: NDArray[np.float64], answers: _Answers, names: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `fits` and of `curves` for one measure."""
    values = answers.values(measure)
    about = {"measure": measure, "against": job.settings.against, "n_models": len(sizes), "n_questions": len(values)}
    if not len(values):
        status = {"status": "model_nonfinite", "reason": "no question is read by all models with finite scores"}
        return [about | status | {"law": law} for law in LAWS.values()], [
            {"measure": measure} | {"status": "model_nonfinite"}
        ]
    means = values.mean(0)
    several = len(set(answers.groups)) > 1
    drawn = resampled_means(values, groups=answers.groups, seed=job.seed, resamples=job.settings.resamples) if several \
        else np.zeros((0, len(sizes)))  # fmt: skip
    low, high = _interval(drawn, job.settings.confidence)
    order = np.argsort(sizes, kind="stable")
    curves = [
        {"measure": measure, "series": "measured", "size": float(sizes[i]), "value": float(means[i]), "status": "ok",
         "low": None if low is None else float(low[i]), "high": None if high is None else float(high[i])}
        for i in order
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for floor, law in LAWS.items():
        reason = _refusal(sizes, means, names, floor)
        if reason is not None:
            rows.append(about | {"law": law, "status": NOT_APPLICABLE, "reason": reason})
            continue
        fitted = fit_power_law(sizes, means, floor=floor)
        rows.append(about | {"law": law, "status": "ok"} | _fit_row(sizes, means, drawn, fitted, floor, names, job))
        line = np.geomspace(sizes.min(), sizes.max(), 33)
        curves += [
            {"measure": measure, "series": law, "size": float(n), "value": float(v), "status": "ok"}
            for n, v in zip(line, fitted.at(line)[0], strict=True)
        ]
    return rows, curves


def _refusal(sizes: NDArray[np.float64], means: NDArray[np.float64], names: Sequence[str], floor: bool) -> str | None:
    different, needed = len(np.unique(sizes)), FEWEST[floor]
    if different < needed:
        return f"the models have {different} different sizes, and this law needs {needed}"
    if (means <= 0.0).any():
        return f"the measure of {names[int(means.argmin())]} is 0, which no power law is"
    return None


def _fit_row(
    sizes: NDArray[np.float64], means: NDArray[np.float64], drawn: NDArray[np.float64], fitted: PowerLaw, floor: bool,
    names: Sequence[str], job: Job,
) -> dict[str, Any]:  # fmt: skip
    judged = judge(sizes, means, floor=floor)
    row: dict[str, Any] = {
        "alpha": float(fitted.alpha[0]), "amplitude": float(fitted.amplitude[0]),
        "floor": float(fitted.floor[0]) if floor else None, "rms": judged.rms, "r2": judged.r2,
        "worst": names[judged.worst], "worst_residual": judged.largest, "curvature": judged.curvature,
        "alpha_least": judged.alpha_least, "alpha_most": judged.alpha_most, "p": judged.p,
    }  # fmt: skip
    if not len(drawn) or (drawn <= 0.0).any():
        return row
    again = fit_power_law(sizes, drawn, floor=floor)
    ends: Mapping[str, NDArray[np.float64]] = {"alpha": again.alpha, "curvature": curvature(sizes, drawn)}
    if floor:
        ends = {**ends, "floor": again.floor}
        row["bounded"] = float(again.bounded.mean())
    for name, values in ends.items():
        low, high = _interval(values[:, None], job.settings.confidence)
        row |= {
            f"{name}_low": None if low is None else float(low[0]),
            f"{name}_high": None if high is None else float(high[0]),
        }
    return row


def _interval(
    drawn: NDArray[np.float64], confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | tuple[None, None]:
    """Percentile interval (m,) of drawn (resamples, m); none of none."""
    if not len(drawn):
        return None, None
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return low, high
