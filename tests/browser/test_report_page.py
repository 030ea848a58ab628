"""The page in a real browser, on a telephone and on a desk: it fits, it is quiet, it loads nothing.

The page is put into frames of both widths on a page that measures them; the page itself has no script.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
from typing import Any

import pytest
from browser import find_browser
from mplat.report import load, render
from report_runs import write_classification, write_eval_run, write_interp_run, write_trace_run

pytestmark = pytest.mark.browser

WIDTHS = (400, 1400)
_MEASURE = """
<script>
const result = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  const edge = view.innerWidth + 1, right = e => e.getBoundingClientRect().right;
  const boxes = [...page.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest("svg"));
  result[frame.width] = {
    inner: view.innerWidth,
    scroll: root.scrollWidth,
    sticking_out: boxes.filter(e => right(e) > edge).map(e => e.tagName + "." + e.className),
    figures: [...page.querySelectorAll("figure svg")].map(e => e.getBoundingClientRect().width),
    requests: view.performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:")),
    headings: page.querySelectorAll("h1, h2").length,
    font: parseFloat(view.getComputedStyle(page.body).fontSize),
  };
}
document.body.innerHTML = "<pre id=measured></pre>";
document.getElementById("measured").textContent = JSON.stringify(result);
</script>
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    browser = find_browser()
    folder = tmp_path_factory.mktemp("browser")
    long = "".join(f"word{i} " for i in range(60)) + "x" * 400
    write_eval_run(folder / "runs" / "eval", model="toy", predictions={"facts-eval-L1-0001": long})
    write_interp_run(folder / "runs" / "interp")
    write_trace_run(folder / "runs" / "trace")
    write_classification(folder / "runs" / "classify")
    page = html.escape(render(load([folder / "runs"], title="A report with a title of some length")))
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{page}"></iframe>' for width in WIDTHS)
    (folder / "frames.html").write_text(f"<!DOCTYPE html><body>{frames}{_on_load(_MEASURE)}", encoding="utf-8")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1500,1000",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--dump-dom",
         (folder / "frames.html").as_uri()],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.S)
    assert found, f"the browser measured nothing: {done.stderr[-2000:]}"
    return {"frames": json.loads(html.unescape(found[1])), "log": done.stderr}


def _on_load(script: str) -> str:
    """The script, run once every frame is loaded."""
    return script.replace("<script>", '<script>addEventListener("load", () => {').replace("</script>", "});</script>")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_its_window(measured: dict[str, Any], width: int) -> None:
    frame = measured["frames"][str(width)]
    assert frame["inner"] == width
    assert frame["scroll"] <= width, "the page scrolls sideways"
    assert frame["sticking_out"] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_text_and_figures_can_be_read(measured: dict[str, Any], width: int) -> None:
    frame = measured["frames"][str(width)]
    assert frame["font"] >= 16
    assert frame["headings"] >= 5
    assert frame["figures"] and all(300 <= figure <= width for figure in frame["figures"])


def test_nothing_is_requested(measured: dict[str, Any]) -> None:
    assert all(frame["requests"] == [] for frame in measured["frames"].values())


def test_the_console_is_quiet(measured: dict[str, Any]) -> None:
    assert [line for line in measured["log"].splitlines() if "CONSOLE" in line] == []
