"""Doses, evidence distance and likelihoods on the page: the numbers of the summary, drawn and in rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mplat.report import load, render
from mplat.report.charts.view_figures import draw
from mplat.report.content import Curves, Evaluation, Point, ShownTable, StepResults
from report_runs import write_eval_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Evaluation, str]:
    folder = tmp_path_factory.mktemp("beside") / "eval"
    summary = json.loads(json.dumps(write_eval_run(folder, whole=True)))
    report = load([folder])
    return summary, report.evaluations[0], render(report)


def part(run: Evaluation, name: str) -> StepResults:
    (found,) = (step for step in run.beside if step.step == name)
    return found


def times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def test_gain_and_price_by_dose_are_those_of_the_summary_with_their_bands(made):
    summary, run, _ = made
    gain, price, table = part(run, "doses").shown
    assert isinstance(gain, Curves) and isinstance(price, Curves) and isinstance(table, ShownTable)
    curves = summary["dose_response"]
    assert [name for name, _ in gain.lines] == [curve["name"] for curve in curves] == ["recipe above", "recipe below"]
    for drawn, what, factor in ((gain, "gain", 100), (price, "cost", 1)):
        for (_, points), curve in zip(drawn.lines, curves, strict=True):
            expected = [
                Point(
                    p["strength"],
                    *(None if p[what][k] is None else factor * p[what][k] for k in ("mean", "low", "high")),
                )
                for p in curve["points"]
            ]
            assert list(points) == expected
    assert price.limit == summary["method"]["tolerated"] and gain.limit is None
    assert [row[:3] for row in table.rows] == [
        (curve["name"], p["strength"], p["kl"]) for curve in curves for p in curve["points"]
    ]


def test_the_range_that_ships_is_marked(tmp_path: Path):
    summary = write_eval_run(tmp_path / "eval", whole=True)
    summary["dose_response"][0]["ranges"] = [{"first": 0.25, "last": 0.5, "strengths": 2}]
    summary["dose_response"][1]["ranges"] = [{"first": -0.5, "last": -0.5, "strengths": 1}]
    (tmp_path / "eval" / "summary.json").write_text(json.dumps(summary))
    (run,) = load([tmp_path / "eval"]).evaluations
    gain = part(run, "doses").shown[0]
    assert isinstance(gain, Curves) and gain.marked == ((0.25, 0.5), (-0.5, -0.5)) and not part(run, "doses").notes
    without = Curves(gain.title, gain.note, gain.x_label, gain.y_label, gain.lines)
    svg, plain = draw("a", gain), draw("a", without)
    assert svg.count("<path") > plain.count("<path") and ">ships<" in svg and ">ships<" not in plain


def test_where_no_dose_ships_that_is_said(made):
    _, run, page = made
    assert not any(curve["ranges"] for curve in made[0]["dose_response"])
    assert part(run, "doses").notes == ("No dose ships.",) and "No dose ships." in page


def test_doses_that_broke_the_model_are_named(tmp_path: Path):
    summary = write_eval_run(tmp_path / "eval", whole=True)
    summary["dose_response"][0]["without"] = [50.0, 8.0]
    (tmp_path / "eval" / "summary.json").write_text(json.dumps(summary))
    (run,) = load([tmp_path / "eval"]).evaluations
    assert part(run, "doses").notes[-1] == "At strength 8, 50 no answer or no text has a score."


def test_accuracy_by_distance_is_unsteered_and_steered_in_order_of_distance(made):
    summary, run, _ = made
    curve, table = part(run, "distances").shown
    assert isinstance(curve, Curves) and isinstance(table, ShownTable) and curve.log_x
    for (title, points), name in zip(curve.lines, ("unsteered", "steered"), strict=True):
        assert title == name and [p.x for p in points] == [0, 64, 128]
        assert [p.y for p in points] == [100 * g["em"]["conditions"][name]["mean"] for g in summary["distances"]]
    assert [row[:2] for row in table.rows] == [(float(g["name"]), g["n"]) for g in summary["distances"]]
    assert len(table.columns) == len(table.rows[0]) == 2 + len(run.conditions)


def test_likelihoods_have_a_row_for_each_metric_and_what_failed_is_counted(made):
    summary, run, page = made
    (table,) = part(run, "likelihoods").shown
    assert isinstance(table, ShownTable)
    overall = [row for row in table.rows if row[0] == "overall"]
    assert len(overall) == 4 and all(len(row) == len(table.columns) for row in table.rows)
    mean = summary["likelihoods"][0]["logprob"]["conditions"]["unsteered"]["mean"]
    assert str(overall[0][3]).startswith(f"{mean:.3f}")
    failed = summary["likelihoods"][0]["failed"]
    assert failed == 4 and f"{failed} rows have no likelihood" in part(run, "likelihoods").notes[0]
    assert "Likelihood of the right answers" in page


def test_the_price_has_bits_per_byte_and_divergence_beside_it_and_names_its_text(made):
    summary, run, page = made
    price = summary["price"]
    for row, condition in zip(run.price, run.conditions, strict=True):
        assert row.bits_per_byte is not None and row.kl is not None
        assert row.bits_per_byte._asdict() == price["bits_per_byte"][condition.name]
        assert row.kl._asdict() == price["kl"]["conditions"][condition.name]
    assert run.price_text == "made up" and "Price on made up" in page
    assert re.search(r"<th[^>]*>bits per byte</th><th[^>]*>KL to unsteered</th>", page)


def test_an_earlier_summary_without_them_shows_what_it_has(tmp_path: Path):
    summary = write_eval_run(tmp_path / "eval", whole=True)
    for name in ("dose_response", "distances", "likelihoods"):
        del summary[name]
    for name in ("source", "kl", "bits_per_byte"):
        del summary["price"][name]
    (tmp_path / "eval" / "summary.json").write_text(json.dumps(summary))
    report = load([tmp_path / "eval"])
    assert report.evaluations[0].beside == () and report.evaluations[0].price_text == ""
    assert "not measured" in render(report)
