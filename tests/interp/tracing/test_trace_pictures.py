"""The pictures and the page of a trace show the numbers of its tables, load nothing, and take no text for markup."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import matplotlib.image
import pytest
from interp_jobs import reader
from mplat.datasets.factual import FactualPrompt
from mplat.interp.methods.trace_config import TraceConfig
from mplat.interp.methods.trace_folder import TraceResult, run_trace
from mplat.interp.methods.trace_plan import TracePlan, prepare
from mplat.report.heat_maps import HeatMap, Panel, render, visible_token
from mplat.report.trace_page import page
from mplat.report.trace_pictures import average_map, draw, prompt_map
from mplat.runtime import open_session

EVIL = "$x_1$ </script><script>alert('x')</script> <b>"
PROMPTS = [
    FactualPrompt("a", "test", "Rome is in", "Rome", (0, 4), "Italy"),
    FactualPrompt("<i>b</i>", "test", f"{EVIL} is in", "$x_1$", (0, 5), "Italy"),
    FactualPrompt("gone", "test", "Rome is " * 30 + "in", "Rome", (0, 4), "Italy"),
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> tuple[TracePlan, TraceResult, Path]:
    folder = tmp_path_factory.mktemp("trace")
    config = TraceConfig(
        samples=2, sites=("resid_post", "C"), correct_only=False, resamples=100, pictures=2, max_tokens=80
    )
    plan = prepare(config, reader(), PROMPTS)
    with open_session("none") as session:
        return plan, run_trace(plan, out=folder, session=session, draw=draw), folder


@pytest.mark.slow
def test_panels_hold_the_effects_of_the_tables(traced) -> None:
    plan, result, _ = traced
    for trace in plan.singles(result.traces):
        picture = prompt_map(plan, trace, "a prompt")
        rows = trace.to_pylist()
        assert [panel.title for panel in picture.panels] == ["resid_post", "C"]
        for panel in picture.panels:
            found = [panel.effects[r["position"]][r["layer"]] for r in rows if r["site"] == panel.title]
            assert found == [r["effect"] for r in rows if r["site"] == panel.title]
        starred = [i for i, row in enumerate(picture.rows) if row.endswith("*")]
        item = next(i for i in plan.items if len(i.tokens) == len(picture.rows))
        assert starred == list(range(*item.subject))
    means = average_map(plan, result.averages)
    assert result.averages is not None
    row = next(r for r in result.averages.to_pylist() if (r["site"], r["layer"], r["bin"]) == ("C", 1, "last"))
    assert means.panels[1].effects[means.rows.index("last token")][1] == row["effect"]


def test_a_positive_effect_is_brown_a_negative_one_purple_and_a_missing_one_neither() -> None:
    effects = [[1.0, -1.0, None]]
    picture = HeatMap("t", ["n"], ["token"], [0, 1, 2], [Panel("resid_post", effects)])
    made = render(picture)
    image = matplotlib.image.imread(io.BytesIO(made["png"]))[..., :3]
    is_brown = (image[..., 0] > 0.4) & (image[..., 2] < 0.15) & (image[..., 1] < 0.35)
    is_purple = (image[..., 2] > 0.25) & (image[..., 1] < 0.1) & (image[..., 0] < 0.3)
    brown, purple = is_brown.any(0).nonzero()[0], is_purple.any(0).nonzero()[0]
    width = image.shape[1]
    assert brown[brown < 0.7 * width].mean() < purple[purple < 0.7 * width].mean()  # left of the colour bar
    assert made == render(picture)
    assert b"resid_post" in made["svg"] and b"<dc:date>" not in made["svg"]


def test_tokens_that_cannot_be_seen_are_made_visible() -> None:
    assert [visible_token(t) for t in (" Paris", "\n", "", "x", "\x1b[31m")] == [
        "␣Paris",
        "\\n",
        "(empty)",
        "x",
        "\\x1b[31m",
    ]
    assert visible_token("x", starred=True) == "x*"


def test_mathematics_in_a_prompt_is_text(traced) -> None:
    svg = (traced[2] / "heat_maps" / "01-i-b-i.svg").read_text()
    assert "$x_1$" in svg and "<script" not in svg


def _data(text: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert "<" not in found
    return json.loads(found)


def test_the_page_holds_every_number_and_no_foreign_markup(traced) -> None:
    plan, result, folder = traced
    text = (folder / "trace.html").read_text()
    assert "<script>alert" not in text and "<i>b" not in text
    assert re.search(r"https?:|//[a-z]|@import", text.replace("default-src", "")) is None
    assert "default-src 'none'" in text and "1 prompt without effects" in text and "more than max_tokens 80" in text
    data = _data(text)
    averages, *prompts = data["views"]
    assert [view["name"] for view in prompts] == ["<i>b</i>", "a"] and prompts[0]["text"] == f"{EVIL} is in"
    by_place = {(r["id"], r["site"], r["layer"], r["position"]): r for r in result.traces.to_pylist()}
    for view in prompts:
        for site, rows in view["cells"].items():
            for position, row in enumerate(rows):
                for layer, (effect, std) in enumerate(row):
                    found = by_place[view["name"], site, layer, position]
                    assert effect == pytest.approx(found["effect"], rel=1e-3)
                    assert std == pytest.approx(found["effect_std"], rel=1e-3)
    assert averages["cells"]["C"][-1][1][3] == 2  # prompts


def test_a_page_of_too_many_cells_says_what_it_leaves_out(traced, monkeypatch) -> None:
    plan, result, _ = traced
    monkeypatch.setattr("mplat.report.trace_page.MOST_CELLS", 1)
    singles = [(trace, "text") for trace in plan.singles(result.traces)]
    text = page(plan, result.averages, singles, [])
    assert "the first 1 of 2 traced prompts" in text and len(_data(text)["views"]) == 2
