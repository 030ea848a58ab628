"""The page stands alone, tells the numbers of the summary, and is safe whatever a model wrote."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mplat.core.errors import InputError
from mplat.report import load, render, write
from mplat.report.content import Comparison, Condition
from mplat.report.text import p_value, percent, plain_number, points, shown, signed, visible
from mplat.scoring.statistics import Difference, Estimate
from report_runs import questions, write_classification, write_eval_run, write_interp_run, write_trace_run

_VOID = {"meta", "link", "br", "img", "input", "hr"}
EVIL = "\x1b[31m<script>alert('x')</script></pre>\x07 \u202eabc &amp; \"quoted\" {{ 7 * 7 }}"


class Page(HTMLParser):
    """Every start tag with its attributes; checks that tags close in the order they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: dict[str, list[str]] = {}
        self.words: list[str] = []
        self._cell: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
        if "data-cell" in dict(attrs):
            self._cell = dict(attrs)["data-cell"] or ""
            self.cells.setdefault(self._cell, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"
        if tag == "td":
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._cell is not None:
            self.cells[self._cell][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


class Made:
    """A page of everything, made once for this file."""

    def __init__(self, folder: Path) -> None:
        evil = {question.id: EVIL for question in questions()}
        self.summary: dict[str, Any] = write_eval_run(folder / "eval" / "toy", predictions=evil)
        write_eval_run(folder / "eval" / "other", model="other", whole=True)
        write_interp_run(folder / "interp")
        write_trace_run(folder / "trace")
        write_classification(folder / "classify")
        self.report = load([folder], title="A <b>title</b>\ud800", reproduce="mplat quickstart --seed 3")
        self.html = render(self.report)
        self.page = Page(self.html)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("report") / "runs")


@pytest.mark.slow
def test_every_tag_is_closed_and_ids_are_unique(made: Made) -> None:
    assert made.page.open == []
    ids = Counter(attributes["id"] for _, attributes in made.page.tags if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    targets = [a["href"] for tag, a in made.page.tags if tag == "a"]
    assert targets and all(href and href[1:] in ids for href in targets)  # the contents lead somewhere


def test_nothing_is_requested_from_anywhere(made: Made) -> None:
    assert re.search(r"https?:|//[a-z]", made.html) is None
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in made.page.tags}
    for tag, attributes in made.page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), f"{tag} {name}={value}"
    assert "@import" not in made.html
    assert all(target.startswith(("#", "data:")) for target in re.findall(r"url\(([^)]*)\)", made.html))


def test_i14_what_a_model_wrote_is_text_and_nothing_else(made: Made) -> None:
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&lt;/pre&gt;" in made.html
    assert "<script" not in made.html
    assert "{{ 7 * 7 }}" in made.html and "&amp;amp; &#34;quoted&#34;" in made.html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", made.html)
    assert "A &lt;b&gt;title&lt;/b&gt;" in made.html


def test_the_page_says_the_numbers_of_the_summary(made: Made) -> None:
    groups = [*made.summary["levels"], made.summary["overall"]]
    for family in ("unsteered", "steered", "control_random"):
        told = made.page.cells[family]
        runs = [run for run in made.report.evaluations if run.model in ("other", "toy")]
        assert len(told) == len(groups) * len(runs)
        for cell, group in zip(told[len(groups) :], groups, strict=True):  # `other` comes first
            e = group["em"]["conditions"][family]
            bounds = "" if e["low"] is None else f"{100 * e['low']:.1f} to {100 * e['high']:.1f}"
            assert cell.split() == [f"{100 * e['mean']:.1f}", *bounds.split()], cell


def test_everything_a_reader_needs_is_there(made: Made) -> None:
    for words in (
        made.summary["verdict"]["sentence"], "controlled (random channels)", "mean over 2 random draws",
        "steered \u2212 random channels", "model_nonfinite", "nats per token", "scale_channels", "mixer_out of layer 3",
        "4, 38", "Search: the 3 best candidates", "right only when steered", "mplat eval --model toy",
        "mplat quickstart --seed 3", "versions.mplat", "two_hop", "What the numbers do not show",
    ):  # fmt: skip
        assert words in made.page.text, words
    assert [tag for tag, _ in made.page.tags].count("svg") == 2 * 2 + 3 + 1 + 2 * 2  # evaluations, doses, a map, traces
    assert all(a.get("role") == "img" and a.get("aria-label") for tag, a in made.page.tags if tag == "svg")


@pytest.mark.slow
def test_the_first_table_compares_with_the_control_that_does_best(made: Made) -> None:
    run = next(run for run in made.report.evaluations if run.model == "other")
    better, difference = Estimate(12, 0.987, 0.9, 1.0), Difference(12, -0.654, -0.8, -0.5, 0.01)
    run = dataclasses.replace(
        run,
        conditions=(*run.conditions, Condition("control_strong", "control", "controlled (strong)")),
        levels=tuple(dataclasses.replace(row, em=(*row.em, better), f1=(*row.f1, better)) for row in run.levels),
        comparisons=(*run.comparisons, Comparison("strong", "control_strong", (difference,) * len(run.levels))),
    )
    about = ("What was done.", "What was <not> done.")
    page = Page(render(dataclasses.replace(made.report, evaluations=(run,), about=about)))
    glance = page.text.partition("At a glance Every model")[2].partition("Accuracy per level")[0]
    assert "98.7 90.0 to 100.0 controlled (strong) \u221265.4 \u221280.0 to \u221250.0 +0.100" in glance
    assert "+0.100 no evidence" in glance and run.kind == "no_evidence"
    assert "What was done. What was <not> done." in page.text


def test_colours_follow_the_page_in_light_and_dark(made: Made) -> None:
    assert "prefers-color-scheme: dark" in made.html
    figures = "".join(re.findall(r"<svg.*?</svg>", made.html, re.S))
    assert "var(--series-3)" in figures and "var(--text)" in figures
    for placeholder in ("#010203", "#c1c2c3", "#4b4c4d", "#0072b3", "#e69f01"):
        assert placeholder not in made.html
    defined = set(re.findall(r"(--[a-z0-9-]+):", made.html))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", made.html)) <= defined


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    assert render(made.report) == made.html
    digest = write(made.report, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == made.html
    assert len(digest) == 64


def test_a_partial_run_is_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    write_eval_run(tmp_path / "eval")
    (tmp_path / "eval" / "summary.json").unlink()
    page = Page(render(load([tmp_path / "eval"])))
    assert page.open == []
    assert "Missing here:" in page.text and "summary.json is not there" in page.text
    assert page.cells == {}


def test_numbers_have_one_form() -> None:
    assert [percent(v) for v in (0.0, -0.0, 0.625, 1.0)] == ["0.0", "0.0", "62.5", "100.0"]
    assert [points(v) for v in (0.0125, -0.004, 0.0, -0.0001)] == ["+1.2", "\u22120.4", "0.0", "0.0"]
    assert [signed(v) for v in (0.1, -0.1, 0.0001)] == ["+0.100", "\u22120.100", "0.000"]
    assert [plain_number(v) for v in (1234567, -2, 0.123456)] == ["1,234,567", "\u22122", "0.1235"]
    assert [p_value(v) for v in (None, 0.0004, 0.25)] == ["\u2013", "< 0.001", "0.250"]


def test_text_that_is_not_to_be_seen_is_taken_out() -> None:
    assert visible(EVIL) == "<script>alert('x')</script></pre> abc &amp; \"quoted\" {{ 7 * 7 }}"
    assert visible("half a pair: \ud800") == "half a pair: \ufffd"
    assert visible("line\n\ttab") == "line\n\ttab"
    assert shown(" \x1b[0m ") == "(nothing)"


def test_f12_tables_that_were_computed_in_pieces_are_said_on_the_page(tmp_path: Path) -> None:
    write_eval_run(tmp_path / "run", model="toy")
    assert load([tmp_path / "run"]).in_pieces == ()
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"details": {"cut": {"<test>": ["0001", "0002"]}}}))
    text = Page(render(load([tmp_path / "run"]))).text
    assert f"Not computed as planned: {tmp_path / 'run'}: <test>: 2 of its batches took too many workers down" in text
    path.write_text(json.dumps(json.loads(path.read_text()) | {"details": {"cut": ["0001"]}}))
    with pytest.raises(InputError, match=r"run\.json: 'details\.cut' is not an object"):
        load([tmp_path / "run"])
