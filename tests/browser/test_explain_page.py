"""The page of one question in a real browser: its script recolours every token and draws the map, and is quiet."""

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
from mplat.datasets.records import Question
from mplat.interp.engine.cache import Cache
from mplat.interp.engine.interp_config import config_model
from mplat.interp.explain.choosing import choose
from mplat.interp.explain.explanation import explain
from mplat.report.explain_page import page

pytestmark = pytest.mark.browser

PROMPT = "A box </script><script>document.title = 'evil'</script> is in Rome. It is in"
_MEASURE = """
<script>
addEventListener("load", () => {
  const measure = document.getElementById("measure"), map = document.getElementById("map"), result = {strips: {}};
  for (const option of measure.options) {
    measure.value = option.value;
    measure.dispatchEvent(new Event("change"));
    result.strips[option.text] = [...document.querySelectorAll(".t")].map(token => token.style.backgroundImage);
  }
  document.querySelector(".t").dispatchEvent(new Event("click", {bubbles: true}));
  result.readout = document.getElementById("token-said").textContent;
  const drawn = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;  // once
  const opaque = (x, y) => drawn[4 * (y * map.width + x) + 3];
  result.first = opaque(2, 2);
  result.blank = opaque(map.width - 2, 2);
  const box = map.getBoundingClientRect();
  map.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 1, clientY: box.bottom - 2}));
  result.said = document.getElementById("map-said").textContent;
  result.wide = document.documentElement.scrollWidth;
  result.prompt = document.getElementById("tokens").textContent;
  result.requests = performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:"));
  document.body.innerHTML = "<pre id=measured></pre>";
  document.getElementById("measured").textContent = JSON.stringify(result);
});
</script>
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    browser = find_browser()
    folder: Path = tmp_path_factory.mktemp("browser")
    settings, model = config_model().model_validate({"fact_tracing": {"samples": 1}}), reader()
    asked = Question(id="a", dataset="own", split="", question="", answers=("Rome",), prompt=PROMPT)
    text = page(explain(model, choose(model, asked, settings), settings, cache=Cache(folder)), "again")
    (folder / "page.html").write_text(text.replace("</body>", f"{_MEASURE}</body>"))
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
def test_the_strip_and_the_map_are_drawn(measured: dict[str, Any]) -> None:
    assert len(measured["strips"]) >= 5
    assert all(style.startswith("linear-gradient") for styles in measured["strips"].values() for style in styles)
    assert len({tuple(styles) for styles in measured["strips"].values()}) > 3  # measures differ
    assert measured["readout"].startswith("0: ") and re.search(r" reads [\d.]+ % from ", measured["said"])
    assert measured["first"] == 255 and measured["blank"] == 0  # the first token reads itself alone


def test_a_prompt_is_text_and_nothing_else(measured: dict[str, Any]) -> None:
    assert measured["prompt"].strip() == PROMPT and measured["title"].startswith("a in ")


def test_the_page_is_quiet_asks_for_nothing_and_fits(measured: dict[str, Any]) -> None:
    assert measured["requests"] == [] and measured["wide"] <= 500
    assert [line for line in measured["log"].splitlines() if "CONSOLE" in line] == []
