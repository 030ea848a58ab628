"""The section of a trace: its numbers are those of averages.parquet, and every prompt is accounted for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mplat.core.errors import InputError
from mplat.report import load, render
from mplat.report.charts.trace_figures import bin_map, curves
from mplat.report.text import MINUS, effect_size
from report_runs import write_trace_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_trace_run(tmp_path / "trace")
    return tmp_path / "trace"


def test_effects_are_those_of_the_averages(folder: Path) -> None:
    (run,) = load([folder]).traces
    found = {
        (site.site, layer, line.title): effect
        for site in run.sites
        for line in site.bins
        for layer, effect in zip(run.layers, line.effects, strict=True)
    }
    titles = {"prefix": "before the subject", "subject_first": "first subject token",
              "subject_last": "last subject token", "further": "further tokens", "last": "last token"}  # fmt: skip
    rows = pq.read_table(folder / "averages.parquet").to_pylist()
    assert len(found) == len(rows) == 20
    for row in rows:
        effect = found[row["site"], row["layer"], titles[row["bin"]]]
        assert tuple(effect) == (row["prompts"], row["effect"], row["low"], row["high"])
    assert tuple(run.total) == (3, 0.75, 0.5, 1.0)
    assert run.statuses == (("model_wrong", 1), ("ok", 3)) and not run.missing
    assert run.left_out == (("<b>p3</b>", "model_wrong", "the model says ' a', not ' b'"),)


def test_the_page_says_what_was_corrupted_restored_and_left_out(folder: Path) -> None:
    page = render(load([folder]))
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for words in (
        "toy: causal traces", "noise of standard deviation 0.5 on the subject, 10 samples", "one layer restored",
        "answered correctly", "Prompts: 1 model_wrong , 3 traced", "+0.75", "+0.5 to +1",
        "Restored: the residual stream after the block.",
        "Restored: the recurrent state after this token: later tokens see it, this one does not; and the inputs that",
        "the model says &#39; a&#39;, not &#39; b&#39;", "that does not make it necessary",
    ):  # fmt: skip
        assert words in text, words
    assert "<b>p3</b>" not in page
    told = [re.sub(r"<[^>]+>", " ", cell).split() for cell in re.findall(r'data-cell="resid_post">(.*?)</td>', page)]
    rows = [r for r in pq.read_table(folder / "averages.parquet").to_pylist() if r["site"] == "resid_post"]
    order = ["prefix", "subject_first", "subject_last", "further", "last"]
    by_bin = sorted(rows, key=lambda row: (order.index(row["bin"]), row["layer"]))
    assert told == [[effect_size(r["effect"]), effect_size(r["low"]), "to", effect_size(r["high"])] for r in by_bin]


def test_an_effect_has_a_sign_and_three_digits() -> None:
    assert [effect_size(v) for v in (0.0, 0.12345, -0.5, 1e-9)] == [
        "0",
        "+0.123",
        f"{MINUS}0.5",
        "+1e-09".replace("-", MINUS),
    ]


def _points(svg: str, group: int) -> list[tuple[float, float]]:
    """The corners of the path of a line of the figure."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--series-\d\); stroke-linecap: square"', svg)
    numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", paths[group])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_curves_rise_where_effects_do_and_leave_out_what_is_zero_by_definition(folder: Path) -> None:
    (run,) = load([folder]).traces
    site = run.sites[0]
    svg = curves("a", site, run.layers, run.unit)
    assert "last subject token" in svg and "before the subject" not in svg
    heights = np.array([[y for _, y in _points(svg, i)] for i in range(4)])  # down is positive
    effects = np.array([[e.mean for e in line.effects] for line in site.bins if line.drawn], dtype=float)
    slope = np.polyfit(effects.ravel(), heights.ravel(), 1)
    assert slope[0] < 0 and np.allclose(np.polyval(slope, effects), heights, atol=0.01)
    assert curves("a", site, run.layers, run.unit) == svg != bin_map("a", site, run.layers, run.unit)


def test_a_trace_that_is_not_finished_or_empty_says_so(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": "unfinished", "files": {}, "counts": {}}))
    assert load([folder]).traces[0].missing == (f"{folder}: the trace is not finished; run its command again",)
    nothing = record | {"files": {"traces.parquet": "ab"}, "counts": {"model_wrong": 4}}
    (folder / "run.json").write_text(json.dumps(nothing))
    (run,) = load([folder]).traces
    assert run.sites == () and run.total.mean is None and "no prompt was traced" in run.missing[0]
    assert "no prompt was traced" in render(load([folder]))


def test_what_is_gone_is_missing_and_what_is_damaged_is_an_error(folder: Path) -> None:
    (folder / "traces.parquet").unlink()
    (run,) = load([folder]).traces
    assert run.sites and "traces.parquet is not there" in run.missing[0]
    (folder / "averages.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="averages.parquet"):
        load([folder])
