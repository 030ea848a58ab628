"""The page of one question: its numbers are those of the tables, foreign text stays text, what is missing is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from interp_jobs import reader
from mplat.datasets.records import Question
from mplat.interp.engine.cache import Cache
from mplat.interp.engine.interp_config import config_model
from mplat.interp.explain.choosing import choose
from mplat.interp.explain.explanation import Explanation, explain
from mplat.interp.explain.findings import findings, percent, rows_of
from mplat.report import explain_views
from mplat.report.explain_data import LINE, data_of, gradient, strip_of
from mplat.report.explain_page import page

EVIL = "</script><script>alert('evil')</script> $x$ box is in Rome.\nThe <b>box</b> is in"


def explained(folder: Path, arch: str = "mamba", prompt: str = EVIL) -> Explanation:
    settings = config_model().model_validate({"fact_tracing": {"samples": 1}})
    asked = Question(id="<i>box</i>", dataset="own", split="", question="", answers=("Rome",), prompt=prompt)
    model = reader(arch)
    return explain(model, choose(model, asked, settings), settings, cache=Cache(folder))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    return explained(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def text(found: Explanation) -> str:
    with pytest.MonkeyPatch.context() as patch:  # `mplat interp --explain` is tested with figures
        patch.setattr(explain_views, "draw", lambda name, shown: "<svg></svg>")
        return page(found, "mplat interp --explain '<i>box</i>'")


def test_foreign_text_is_text(text: str) -> None:
    assert text.count("<script") == 2 and "alert(&#39;evil&#39;)" in text  # the page's own data and script
    assert "<i>box" not in text and "<b>box" not in text
    data = re.search(r'id="data">(.*?)</script>', text, re.S)
    assert data is not None and "<" not in data[1] and json.loads(data[1])["tokens"]


def test_every_section_has_its_finding_and_asks_for_nothing(text: str, found: Explanation) -> None:
    plain = text.replace("\u00a0%", " %").replace("&#39;", "'").replace("&#34;", '"')
    for name, says in findings(found).items():
        assert says.replace("`", "") in plain.replace("<code>", "").replace("</code>", ""), name
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)
    for anchor in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{anchor}"' in text


def test_numbers_are_those_of_the_tables(text: str, found: Explanation) -> None:
    bars = explain_views.read_bars(found)
    readers = [row for row in rows_of(found, "readers") if row["layer"] is not None]
    assert [bar.text for bar in bars["shares"]] == [percent(row["read"]) for row in readers]
    assert [bar.width for bar in bars["shares"]] == pytest.approx([100 * row["read"] for row in readers])
    blocks = explain_views.block_rows(found)
    assert [b.cells[1][0] for b in blocks] == [percent(row["left_write"]) for row in rows_of(found, "states")]
    data = data_of(found)
    delta = {(r["layer"], r["position"]): r["delta"] for r in rows_of(found, "tokens")}
    for layer, line in enumerate(data["measures"][0]["lines"]):
        assert line["values"] == pytest.approx([delta[layer, t] for t in range(len(data["tokens"]))], rel=1e-3)
    cells = {(r["layer"], r["reader"], r["source"]): r["share"] for r in rows_of(found, "maps")}
    shown = data["maps"]["blocks"][1]["cells"]
    assert shown[3 * 4 // 2 + 1] == round(1000 * cells[1, 3, 1])
    assert data["shown"] == min(readers, key=lambda row: row["cut"])["layer"]
    assert f">{bars['losses'][0].text}<".replace(" %", "\u00a0%") in text


def test_the_strip_has_a_line_for_every_block(found: Explanation) -> None:
    tokens = strip_of(found, data_of(found))
    assert "".join(token.text for token in tokens).replace("\u23ce\n", "\n").strip() == EVIL
    assert [t.evidence for t in tokens] == [r["evidence"] for r in rows_of(found, "tokens", layer=0)]
    made = gradient([1.0, None, 0.5])
    assert f"rgb(var(--ink) / 1.00) 0px {LINE}px,var(--hole) {LINE}px {2 * LINE}px,rgb(var(--ink) / 0.50)" in made
    assert gradient([]) == ""


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_views, "draw", lambda name, shown: "<svg></svg>")
    without = page(explained(tmp_path, "hyena", "Where is the box? It is in"), "again")
    assert "No evidence is marked" in without and "<svg" not in without
    assert "No block of this model has a Delta" in without and "No block of this model has a selective scan" in without
    hyena = page(explained(tmp_path, "hyena"), "again")
    assert "The block has no recurrent state" in hyena and "<svg" in hyena
    assert 'class="bars"' not in hyena and "no sparse autoencoder" in hyena


def test_many_blocks_become_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    monkeypatch.setattr(explain_views, "draw", lambda name, shown: drawn.append(shown) or "<svg></svg>")
    lines = {f"block {i}": [(0, 100.0), (1, 50.0 + i)] for i in range(7)}
    explain_views._over_distance("held", "t", "n", "left, %", lines)  # pyright: ignore[reportPrivateUsage]
    explain_views._over_distance("held", "t", "n", "left, %", {"block 0": lines["block 0"]})  # pyright: ignore
    assert [type(shown).__name__ for shown in drawn] == ["ValueMap", "Curves"]
    assert drawn[0].values[3] == (100.0, 53.0)  # type: ignore[attr-defined]
