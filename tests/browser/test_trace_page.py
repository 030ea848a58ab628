"""The interactive page of a trace in a real browser: its script draws every cell, is quiet, and loads nothing."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from browser import find_browser
from interp_jobs import reader
from mplat.datasets.factual import FactualPrompt
from mplat.interp.methods.trace_config import TraceConfig
from mplat.interp.methods.trace_folder import run_trace
from mplat.interp.methods.trace_plan import prepare
from mplat.report.trace_pictures import draw
from mplat.runtime import open_session

pytestmark = pytest.mark.browser

_MEASURE = """
<script>
addEventListener("load", () => {
  const map = document.getElementById("map"), view = document.getElementById("view"), result = {views: {}};
  for (const option of view.options) {
    view.value = option.value;
    view.dispatchEvent(new Event("change"));
    result.views[option.text] = [...map.querySelectorAll("tbody tr")].map(line =>
      [...line.children].map(cell => cell.tagName === "TH" ? cell.textContent : cell.style.background));
  }
  map.querySelector("td").dispatchEvent(new Event("pointerover", {bubbles: true}));
  result.readout = document.getElementById("readout").textContent;
  result.text = document.getElementById("text").textContent;
  result.wide = document.documentElement.scrollWidth;
  result.requests = performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:"));
  document.body.innerHTML = "<pre id=measured></pre>";
  document.getElementById("measured").textContent = JSON.stringify(result);
});
</script>
"""
TEXT = "Rome </script><script>document.title = 'evil'</script> is in"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    browser = find_browser()
    folder: Path = tmp_path_factory.mktemp("browser")
    prompts = [FactualPrompt("a", "test", TEXT, "Rome", (0, 4), "Italy")]
    config = TraceConfig(samples=2, sites=("resid_post",), correct_only=False, resamples=100, pictures=0)
    with open_session("none") as session:
        run_trace(prepare(config, reader(), prompts), out=folder / "trace", session=session, draw=draw)
    page = (folder / "trace" / "trace.html").read_text().replace("</body>", f"{_MEASURE}</body>")
    (folder / "page.html").write_text(page)
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=500,900",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--dump-dom",
         (folder / "page.html").as_uri()],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.S)
    assert found, f"the browser measured nothing: {done.stderr[-2000:]}"
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title is not None
    return json.loads(html.unescape(found[1])) | {"log": done.stderr, "title": title[1]}


@pytest.mark.slow
def test_every_cell_is_drawn_in_the_colour_of_its_effect(measured: dict[str, Any]) -> None:
    lines = measured["views"]["a"]
    assert len(lines) > 5 and all(len(line) == 3 for line in lines)  # a token and two layers
    colours = {colour for line in lines for colour in line[1:]}
    assert len(colours) > 3 and all(re.fullmatch(r"rgb\(\d+, \d+, \d+\)", colour) for colour in colours)
    assert {"rgb(179, 88, 6)", "rgb(84, 39, 136)"} & colours  # the largest effect has the full colour
    assert measured["readout"].startswith("resid_post, layer 0, position 0, R")


def test_a_prompt_is_text_and_nothing_else(measured: dict[str, Any]) -> None:
    assert measured["text"] == TEXT and measured["title"].startswith("Causal traces of")


def test_nothing_is_requested_and_the_console_is_quiet(measured: dict[str, Any]) -> None:
    assert measured["requests"] == []
    assert [line for line in measured["log"].splitlines() if "CONSOLE" in line] == []


def test_the_page_fits_a_narrow_window(measured: dict[str, Any]) -> None:
    assert measured["wide"] <= 500
