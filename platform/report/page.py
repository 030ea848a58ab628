"""The report as one HTML file: tables and figures of a `Report`, laid out by templates/report.html.j2.

Promises
- The file stands alone: styles and figures are inside it, nothing is requested from anywhere, it has no script.
- Every text that comes from data is escaped by the template engine (autoescape), after `text.visible` took out what is
  not to be seen. Only figures and the style sheet, both made here, are trusted markup.
- The same content and versions give the same bytes: there is no time stamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..scoring.statistics import Difference, Estimate
from .charts import figures
from .charts.view_figures import draw
from .content import (
    Condition,
    Curves,
    Evaluation,
    Interpretation,
    LevelRow,
    Report,
    Role,
    ShownTable,
    StepResults,
    ValueMap,
)
from .text import p_value, percent, plain_number, points, shown, signed, visible
from .training_views import overlays, training_view

if TYPE_CHECKING:
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"
_ROLES: tuple[Role, ...] = ("unsteered", "steered", "control")


@dataclass(frozen=True)
class _ShownView:
    content: ValueMap | Curves | ShownTable
    figure: Markup | None  # None: a table


@dataclass(frozen=True)
class _StepView:
    """What one step has to show; figures that follow each other stand beside each other."""

    step: StepResults
    anchor: str
    blocks: tuple[tuple[_ShownView, ...], ...]


@dataclass(frozen=True)
class _RunView:
    """One evaluation with what the template needs beside its numbers."""

    run: Evaluation
    anchor: str
    accuracy_figure: Markup | None
    difference_figure: Markup | None
    overall: dict[Role, Estimate]
    overall_n: int | None
    best_control: str | None  # of all levels, the control that does best
    overall_difference: Difference | None  # steered against that
    price: float | None  # of steering, bits per byte
    has_f1: bool
    beside: tuple[_StepView, ...]


@dataclass(frozen=True)
class _InsideView:
    run: Interpretation
    anchor: str
    steps: tuple[_StepView, ...]


def render(report: Report) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        keep_trailing_newline=True,
    )
    for function in (p_value, percent, plain_number, points, shown, signed):
        environment.filters[function.__name__] = function
    sources = [r.folder for r in (*report.evaluations, *report.interpretations)]
    sources += [c.source for c in report.classifications] + [t.source for t in report.trainings]
    return environment.get_template("report.html.j2").render(
        report=report,
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        views=[_run_view(run, number) for number, run in enumerate(report.evaluations, 1)],
        inside=[_inside_view(run, number) for number, run in enumerate(report.interpretations, 1)],
        trainings=[training_view(run, number) for number, run in enumerate(report.trainings, 1)],
        overlays=overlays(report.trainings),
        sources=list(dict.fromkeys(sources)),
    )


def _finalize(value: Any) -> Any:
    """What the template engine does to every value before it escapes it: a number must have been given its form."""
    from markupsafe import Markup

    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _run_view(run: Evaluation, number: int) -> _RunView:
    anchor, model = f"model-{number}", visible(run.model)
    names = [row.short for row in run.levels]
    # A mark belongs to a condition, and to what is subtracted in a comparison: it means the same in both figures.
    marks = {condition.name: mark for mark, condition in enumerate(run.conditions)}
    accuracy = [
        figures.Series(condition.title, marks[condition.name], [_bar(row.em[i]) for row in run.levels])
        for i, condition in enumerate(run.conditions)
    ]
    compared = [
        figures.Series(comparison.title, marks[comparison.baseline], [_bar(d) for d in comparison.rows])
        for comparison in run.comparisons
    ]
    total = next((row for row in run.levels if row.total), None)
    best = _best_control(run, total)
    return _RunView(
        run=run,
        anchor=anchor,
        accuracy_figure=_trusted(
            figures.accuracy(f"{anchor}-accuracy", f"{model}: accuracy per level", names, accuracy) if names else None
        ),
        difference_figure=_trusted(
            figures.differences(f"{anchor}-change", f"{model}: effect of steering", names, compared)
            if compared
            else None
        ),
        overall={role: _overall(run, total, role, best) for role in _ROLES},
        overall_n=total.n if total is not None else None,
        best_control=None if best is None else best.title,
        overall_difference=_overall_difference(run, best),
        price=_price(run),
        has_f1=any(cell.mean is not None for row in run.levels for cell in row.f1),
        beside=tuple(_step_view(step, f"{anchor}-{step.step}") for step in run.beside),
    )


def _trusted(figure: str | None) -> Markup | None:
    """A figure as markup: it was made here."""
    from markupsafe import Markup

    return None if figure is None else Markup(figure)


def _best_control(run: Evaluation, total: LevelRow | None) -> Condition | None:
    """The control that answers most over all levels; None where none was run."""
    means = dict(zip(run.conditions, (e.mean for e in total.em), strict=True)) if total is not None else {}
    known = {c: mean for c, mean in means.items() if c.role == "control" and mean is not None}
    return max(known, key=lambda control: known[control], default=None)


def _overall(run: Evaluation, total: LevelRow | None, role: Role, best: Condition | None) -> Estimate:
    """The condition of a role over all levels; of several controls the best."""
    places = [i for i, c in enumerate(run.conditions) if c.role == role and (role != "control" or c is best)]
    return total.em[places[0]] if total is not None and places else Estimate(0, None, None, None)


def _overall_difference(run: Evaluation, best: Condition | None) -> Difference | None:
    """Steered against the best control over all levels."""
    for comparison in run.comparisons:
        if best is not None and comparison.baseline == best.name:
            for row, difference in zip(run.levels, comparison.rows, strict=True):
                if row.total:
                    return difference
    return None


def _price(run: Evaluation) -> float | None:
    """What steering adds to the bits per byte of held-out text."""
    bits = {row.condition: row.bits_per_byte.mean for row in run.price if row.bits_per_byte is not None}
    before, after = bits.get("unsteered"), bits.get("steered")
    return None if before is None or after is None else after - before


def _bar(estimate: Estimate | Difference | None) -> figures.Bar:
    return (
        figures.Bar(None, None, None) if estimate is None else figures.Bar(estimate.mean, estimate.low, estimate.high)
    )


def _inside_view(run: Interpretation, number: int) -> _InsideView:
    anchor = f"inside-{number}"
    steps = [_step_view(step, f"{anchor}-{i}") for i, step in enumerate(run.steps, 1)]
    return _InsideView(run, anchor, tuple(steps))


def _step_view(step: StepResults, anchor: str) -> _StepView:
    views = [
        _ShownView(content, _trusted(None if isinstance(content, ShownTable) else draw(f"{anchor}-{i}", content)))
        for i, content in enumerate(step.shown, 1)
    ]
    blocks = [tuple(block) for _, block in groupby(views, key=lambda view: view.figure is None)]
    return _StepView(step, anchor, tuple(blocks))


def write(report: Report, path: Path) -> str:
    """Write the page in place of what may be there; returns the sha256 of the file."""
    from ..core.whole_files import publish_bytes

    return publish_bytes(render(report).encode("utf-8"), path).sha256
