"""What an evaluation says beside its scores -> figures and tables: doses, evidence distance, likelihoods.

Numbers are those of summary.json; nothing is computed, and what a summary does not have (an earlier one, an evaluation
at one dose) is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...core.plain_text import with_interval
from ...eval.conditions import STEERED, UNSTEERED
from ...eval.likelihood_summary import METRICS
from ..content import Cell, Condition, Curves, Point, ShownTable, StepResults
from ..documents import Document
from ..text import p_value


def beside_scores(summary: Document, conditions: tuple[Condition, ...]) -> Iterator[StepResults]:
    """Every part that there is."""
    if doses := _entries(summary, "dose_response"):
        yield _doses(doses, summary.at("method").at("tolerated").number())
    if distances := _entries(summary, "distances"):
        yield _distances(distances, conditions)
    if likely := _entries(summary, "likelihoods"):
        yield _likelihoods(likely, conditions)


def _doses(curves: list[Document], tolerated: float | None) -> StepResults:
    """Gain and price by strength, with the range that ships, and the same in rows."""
    gains, prices, rows = [], [], list[tuple[Cell, ...]]()
    ships: list[tuple[float, float]] = []
    for curve in curves:
        name = curve.at("name").text()
        points = list(curve.at("points").elements())
        gains.append((name, tuple(_point(p, "gain", 100) for p in points)))
        prices.append((name, tuple(_point(p, "cost") for p in points)))
        ships += [(_number(found, "first"), _number(found, "last")) for found in curve.at("ranges").elements()]
        for p in points:
            norm, kl = p.at("norm").number(), p.at("kl").number()
            shown = _with_interval(p.at("gain"), "+.1f", 100), _with_interval(p.at("cost"))
            rows.append((name, _number(p, "strength"), kl, norm, *shown, "yes" if p.at("ships").value else "no"))
    marked = tuple((min(span), max(span)) for span in ships)
    about = "strength, share of the recipe's"
    figures = (
        Curves("Gain", "", about, "exact match, points", tuple(gains), marked=marked, marked_title="ships"),
        Curves("Price", "", about, "nats a token", tuple(prices), marked=marked, marked_title="ships", limit=tolerated),
    )
    columns = (
        "recipe",
        "strength",
        "KL to unsteered, nats",
        "edit / site",
        "gain, points",
        "price, nats a token",
        "ships",
    )
    found = [curve.at("without").elements() for curve in curves if "without" in curve]  # an earlier summary has none
    broken = sorted({at for of in found for each in of if (at := each.number()) is not None})
    notes = [] if marked else ["No dose ships."]
    if broken:
        notes.append(f"At strength {', '.join(f'{s:g}' for s in broken)} no answer or no text has a score.")
    bound = "" if tolerated is None else f" of {tolerated:g} nats a token"
    return StepResults(
        "doses", "Dose and response",
        "The recipe at shares of its distance from changing nothing. A dose ships where its gain holds and its price "
        f"stays below the bound{bound} (dashed); bounds hold for all doses of a curve at once.",
        (*figures, ShownTable("", "", columns, tuple(rows))), (), (), tuple(notes),
    )  # fmt: skip


def _distances(groups: list[Document], conditions: tuple[Condition, ...]) -> StepResults:
    """Exact match by the distance of the evidence, unsteered and steered."""
    own = [c for c in conditions if c.name in (UNSTEERED, STEERED)]
    lines = []
    for condition in own:
        cells = [(float(g.at("name").text()), g.at("em").at("conditions").at(condition.name)) for g in groups]
        points = [
            Point(at, *(None if v is None else 100 * v for v in (cell.at(k).number() for k in ("mean", "low", "high"))))
            for at, cell in cells
        ]
        lines.append((condition.title, tuple(sorted(points))))
    rows = [
        (float(g.at("name").text()), g.at("n").whole(),
         *(_with_interval(g.at("em").at("conditions").at(c.name), ".1f", 100) for c in conditions))
        for g in groups
    ]  # fmt: skip
    columns = ("distance", "n", *(f"{c.title}, %" for c in conditions))
    about = "distance of the evidence, tokens or facts"
    curve = Curves("Exact match by distance", "", about, "exact match, %", tuple(lines), log_x=True)
    return StepResults(
        "distances", "Accuracy against evidence distance",
        "The same questions with their evidence at several distances, with 95 % intervals.",
        (curve, ShownTable("", "", columns, tuple(rows))), (), (), (),
    )  # fmt: skip


def _likelihoods(groups: list[Document], conditions: tuple[Condition, ...]) -> StepResults:
    """How likely the right answers are and whether they beat distractors, over all questions and by category."""
    overall = groups[0]
    compared = [name for name, _ in overall.at("logprob").at("differences").entries() if name.startswith(f"{STEERED}-")]
    titles = {c.name: c.title for c in conditions}
    rows = list[tuple[Cell, ...]]()
    for group in groups:
        for field, title in METRICS.items():
            measure = group.at(field)
            estimates = [measure.at("conditions").at(c.name) for c in conditions]
            if all(e.at("mean").value is None for e in estimates):
                continue
            row: list[Cell] = [
                group.at("name").text().replace("_", " "),
                title,
                max(e.at("n").whole() for e in estimates),
            ]
            row += [_with_interval(e, ".3f") for e in estimates]
            for pair in compared:
                difference = measure.at("differences").at(pair)
                p = difference.at("p_holm").number()
                row += [_with_interval(difference), p_value(difference.at("p").number() if p is None else p)]
            rows.append(tuple(row))
    columns = ["questions", "of the right answer", "n", *(c.title for c in conditions)]
    for name in compared:
        other = name.removeprefix(f"{STEERED}-")
        columns += [f"steered \u2212 {titles.get(other, other)}", "p"]
    failed = overall.at("failed").whole()
    notes = (f"{failed} rows have no likelihood; `likelihood_status` in items.parquet says why.",) if failed else ()
    return StepResults(
        "likelihoods", "Likelihood of the right answers",
        "By teacher forcing behind the same prompts: of the first accepted answer with the end of its line, in nats "
        "and over its bytes; beside the likeliest of the distractors, and the share of answers that beat all of them.",
        (ShownTable("", "", tuple(columns), tuple(rows)),), (), (), notes,
    )  # fmt: skip


def _entries(summary: Document, name: str) -> list[Document]:
    """The elements of a list; none where an earlier summary lacks it."""
    return list(summary.at(name).elements()) if name in summary else []


def _point(point: Document, what: str, factor: float = 1.0) -> Point:
    values = (point.at(what).at(key).number() for key in ("mean", "low", "high"))
    return Point(_number(point, "strength"), *(None if value is None else factor * value for value in values))


def _number(value: Document, key: str) -> float:
    found = value.at(key).number()
    return float("nan") if found is None else found


def _with_interval(value: Document, form: str = "+.3f", factor: float = 1.0) -> str:
    numbers = (value.at(key).number() for key in ("mean", "low", "high"))
    mean, low, high = (None if number is None else factor * number for number in numbers)
    return with_interval(mean, low, high, form, form)
