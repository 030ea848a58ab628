"""The section of a trace: its numbers are those of averages.parquet, and every prompt is accounted for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from mplat.core.errors import InputError
from mplat.report import load, render
from mplat.report.charts.view_figures import draw
from mplat.report.content import Curves, Interpretation, ShownTable, ValueMap
from mplat.report.text import MINUS, plain_number
from report_runs import write_trace_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_trace_run(tmp_path / "trace")
    return tmp_path / "trace"


TITLES = {"prefix": "before the subject", "subject_first": "first subject token",
          "subject_last": "last subject token", "further": "further tokens", "last": "last token"}  # fmt: skip
MEANINGS = {
    "resid_post": "Restored: resid_post (the residual stream after the block)",
    "h_post+conv_state": "Restored: h_post (the recurrent state after this token: later tokens see it, this one does "
    "not) and conv_state (the inputs that later tokens' convolutions still see)",
}
NAMES = {"resid_post": "resid_post", "h_post+conv_state": "h_post and conv_state"}


def of(run: Interpretation, kind: type, title: str) -> Any:
    """What a section shows under a title."""
    (content,) = (entry for step in run.steps for entry in step.shown if entry.title == title)
    assert isinstance(content, kind)
    return content


def interval(mean: float, low: float | None, high: float | None) -> str | float:
    """As a table has it."""
    if low is None or high is None:
        return mean
    return f"{plain_number(mean)} ({plain_number(low)} to {plain_number(high)})"


def test_effects_are_those_of_the_averages(folder: Path) -> None:
    (run,) = load([folder]).traces
    rows = pq.read_table(folder / "averages.parquet").to_pylist()
    assert len(rows) == 20
    for site, meaning in MEANINGS.items():
        its = [row for row in rows if row["site"] == site]
        curves, colours = of(run, Curves, meaning), of(run, ValueMap, f"{NAMES[site]}: colours")
        numbers = of(run, ShownTable, f"{NAMES[site]}: the numbers")
        lines = {title: [tuple(point) for point in points] for title, points in curves.lines}
        assert lines == {
            title: [(r["layer"], r["effect"], r["low"], r["high"]) for r in its if r["bin"] == name]
            for name, title in TITLES.items() if name != "prefix"
        }  # fmt: skip
        assert dict(zip(colours.layers, colours.values, strict=True)) == {
            title: tuple(r["effect"] for r in its if r["bin"] == name) for name, title in TITLES.items()
        }
        assert numbers.folded and not numbers.left_out
        assert list(numbers.rows) == [
            (r["layer"], TITLES[r["bin"]], interval(r["effect"], r["low"], r["high"]), r["prompts"], "0.75 (0.5 to 1)")
            for r in its
        ]
        assert curves.y_label == colours.label == "mean indirect effect, probability"
    left_out = of(run, ShownTable, "Prompts without effects")
    assert left_out.rows == (("<b>p3</b>", "model_wrong", "the model says ' a', not ' b'"),)
    about = {fact.name: fact.value for fact in run.about}
    assert about["prompts by status"] == "1 model_wrong, 3 ok" and not run.missing
    assert about["total effect of the corruption (ATE)"] == "0.75 (0.5 to 1)"


def test_the_page_says_what_was_corrupted_restored_and_left_out(folder: Path) -> None:
    page = render(load([folder]))
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for words in (
        "toy: causal traces", "answered correctly", "noise of standard deviation 0.5 on the subject, 10 samples",
        "one layer restored",
        "prompts by status 1 model_wrong, 3 ok total effect of the corruption (ATE) 0.75 (0.5 to 1)",
        "metric probability", "the fact&#39;s target",
        *(meaning.replace("'", "&#39;") for meaning in MEANINGS.values()), "config.facts known_1000",
        "the model says &#39; a&#39;, not &#39; b&#39;", "that does not make it necessary",
    ):  # fmt: skip
        assert words in text, words
    assert "<b>p3</b>" not in page and "&lt;b&gt;p3&lt;/b&gt;" in page
    for row in pq.read_table(folder / "averages.parquet").to_pylist():
        value = interval(row["effect"], row["low"], row["high"])
        value = value if isinstance(value, str) else plain_number(value)
        assert f"{row['layer']} {TITLES[row['bin']]} {value} {row['prompts']} 0.75 (0.5 to 1)" in text


def test_an_effect_has_four_digits_and_a_minus_that_is_one() -> None:
    numbers = [plain_number(v) for v in (0.0, 0.12346, -0.5, 1e-9)]
    assert numbers == ["0", "0.1235", f"{MINUS}0.5", f"1e{MINUS}09"]


def _points(svg: str, group: int) -> list[tuple[float, float]]:
    """The corners of the path of a line of the figure."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--series-\d\); [^"]*stroke-linecap: square"', svg)
    numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", paths[group])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_curves_rise_where_effects_do_and_leave_out_what_is_zero_by_definition(folder: Path) -> None:
    (run,) = load([folder]).traces
    curves = of(run, Curves, MEANINGS["resid_post"])
    svg = draw("a", curves)
    assert "last subject token" in svg and "before the subject" not in svg
    heights = np.array([[y for _, y in _points(svg, i)] for i in range(4)])  # down is positive
    effects = np.array([[point.y for point in points] for _, points in curves.lines], dtype=float)
    slope = np.polyfit(effects.ravel(), heights.ravel(), 1)
    assert slope[0] < 0 and np.allclose(np.polyval(slope, effects), heights, atol=0.01)
    assert draw("a", curves) == svg != draw("a", of(run, ValueMap, "resid_post: colours"))


def test_a_trace_that_is_not_finished_or_empty_says_so(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": "unfinished", "files": {}, "counts": {}}))
    (run,) = load([folder]).traces
    assert run.missing == (f"{folder}: the trace is not finished; run its command again",) and run.steps == ()
    nothing = record | {"files": {"traces.parquet": "ab"}, "counts": {"model_wrong": 4}}
    (folder / "run.json").write_text(json.dumps(nothing))
    (run,) = load([folder]).traces
    assert [type(shown) for step in run.steps for shown in step.shown] == [ShownTable]  # prompts without effects
    assert "no prompt was traced" in run.missing[0] and "total effect" not in str(run.about)
    assert "no prompt was traced" in render(load([folder]))


def test_what_is_gone_is_missing_and_what_is_damaged_is_an_error(folder: Path) -> None:
    traces = (folder / "traces.parquet").read_bytes()
    (folder / "traces.parquet").unlink()
    (run,) = load([folder]).traces
    assert run.steps[0].shown and run.missing[0].startswith("traces.parquet: ") and "is not there" in run.missing[0]
    (folder / "traces.parquet").write_bytes(traces)
    pq.write_table(pq.read_table(folder / "averages.parquet").drop_columns(["ate"]), folder / "averages.parquet")
    with pytest.raises(InputError, match=r"averages.parquet: has no column ate; make it again with `mplat trace`"):
        load([folder])
    (folder / "averages.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match=r"averages.parquet"):
        load([folder])
    (folder / "averages.parquet").unlink()
    (run,) = load([folder]).traces
    assert run.missing[0].startswith("averages.parquet: ") and len(run.missing) == 1
