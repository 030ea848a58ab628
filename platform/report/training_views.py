"""Trainings as figures and rows of the page: each run alone, and all of them over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .charts.training_curves import curves
from .content import Sample, Series, Spike, Training
from .text import visible

if TYPE_CHECKING:
    from markupsafe import Markup

T = TypeVar("T")
_MOST_SETS = 5  # that are drawn; the table has all
_MOST_SPIKES = 20
_MOST_SAMPLES = 8  # of a prompt


@dataclass(frozen=True)
class SetRow:
    """Bits per byte of a held-out set at the first, the best and the last evaluation."""

    name: str
    first: float
    best: float
    best_step: int
    last: float


@dataclass(frozen=True)
class TrainingView:
    """One run. tokens: read so far; None where the log does not say."""

    run: Training
    figures: tuple[Markup, ...]
    tokens: int | None
    sets: tuple[SetRow, ...]
    spikes_left_out: int

    @property
    def spikes(self) -> tuple[Spike, ...]:
        """Those that the table shows."""
        return self.run.spikes[:_MOST_SPIKES]

    @property
    def samples(self) -> dict[str, tuple[Sample, ...]]:
        """By prompt those that are shown: of many the first and the last, and others spread evenly between."""
        by_prompt: dict[str, list[Sample]] = {}
        for sample in self.run.samples:
            by_prompt.setdefault(sample.prompt, []).append(sample)
        return {prompt: tuple(spread_over(its, _MOST_SAMPLES)) for prompt, its in by_prompt.items()}


def training_view(run: Training, number: int) -> TrainingView:
    """The figures and rows of the `number`-th run of the page."""
    model, name = visible(run.model), f"training-{number}"
    drawn: list[str] = []
    if run.loss:
        lines = {"training": run.mean_loss or run.loss} | ({"held out": run.held_out} if run.held_out else {})
        drawn.append(
            curves(
                f"{name}-loss",
                f"{model}: loss",
                lines,
                y_label="nats per token",
                pale={"training": run.loss},
                spots={"spike": [(s.step, s.loss) for s in run.spikes]} if run.spikes else None,
                ticks={"skipped": run.skipped} if run.skipped else None,
            )  # fmt: skip
        )
    if run.exact_match:
        scores = {"held-out questions": _percent(run.exact_match)}
        drawn.append(curves(f"{name}-score", f"{model}: accuracy", scores, y_label="exact match, %"))
    ranked = sorted((s for s in run.sets if s[1]), key=lambda entry: entry[1][-1][1])
    if ranked:
        few = _from_best_to_worst(ranked)
        lines = {"all": run.bits_per_byte} if run.bits_per_byte else {}
        lines |= {visible(title): series for title, series in few}
        drawn.append(curves(f"{name}-sets", f"{model}: held-out sets", lines, y_label="bits per byte"))
    elif run.bits_per_byte:
        drawn.append(
            curves(f"{name}-bits", f"{model}: held out", {"held out": run.bits_per_byte}, y_label="bits per byte")
        )
    rows = [
        SetRow(title, series[0][1], best, int(step), series[-1][1])
        for title, series in ranked
        for best, step in [min((value, step) for step, value in series)]
    ]
    tokens = None if run.tokens_per_step is None else round(run.steps * run.tokens_per_step)
    return TrainingView(run, _trusted(drawn), tokens, tuple(rows), max(0, len(run.spikes) - _MOST_SPIKES))


def overlays(runs: Sequence[Training]) -> tuple[Markup, ...]:
    """Curves of several runs over each other, by tokens where every log says how many; none for a single run."""
    if len(runs) < 2:
        return ()
    by_tokens = all(run.tokens_per_step for run in runs)
    drawn: list[str] = []
    for name, title, label, of_each in (
        ("loss", "training loss", "nats per token", [run.mean_loss for run in runs]),
        ("held-out", "held-out loss", "nats per token", [run.held_out for run in runs]),
        ("bits", "held-out texts", "bits per byte", [run.bits_per_byte for run in runs]),
        ("score", "accuracy", "exact match, %", [_percent(run.exact_match) for run in runs]),
    ):
        lines = {
            title: [(step * (run.tokens_per_step or 1) if by_tokens else step, value) for step, value in series]
            for title, run, series in zip(_names(runs), runs, of_each, strict=True)
            if series
        }
        if len(lines) > 1:
            drawn.append(
                curves(f"overlay-{name}", title, lines, y_label=label, x_label="tokens" if by_tokens else "step")
            )
    return _trusted(drawn)


def _names(runs: Sequence[Training]) -> list[str]:
    """What the runs are called; where two are called the same, with the folder above, and else with a number."""
    names = [visible(run.model) for run in runs]
    above = [visible(f"{Path(run.source).parent.parent.name}/{run.model}") for run in runs]
    names = [longer if names.count(name) > 1 else name for name, longer in zip(names, above, strict=True)]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]


def _from_best_to_worst(ranked: Sequence[tuple[str, Series]]) -> list[tuple[str, Series]]:
    """As many as can be told apart, spread evenly over the ranks."""
    return spread_over(ranked, _MOST_SETS)


def spread_over(those: Sequence[T], most: int) -> list[T]:
    """At most `most` of them, the first and the last among these."""
    if len(those) <= most:
        return list(those)
    return [those[round(i * (len(those) - 1) / (most - 1))] for i in range(most)]


def _percent(series: Series) -> Series:
    return tuple((step, 100 * share) for step, share in series)


def _trusted(drawn: Sequence[str]) -> tuple[Markup, ...]:
    """Figures as markup: they were made here."""
    from markupsafe import Markup

    return tuple(Markup(svg) for svg in drawn)
