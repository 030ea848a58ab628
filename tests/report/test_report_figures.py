"""Figures: what was not measured leaves a gap, ids do not meet, the same numbers give the same bytes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from mplat.report.charts.figures import Bar, Series, accuracy, differences, strip
from mplat.report.charts.svg import SERIES
from mplat.report.charts.training_curves import curves

GAP = Bar(None, None, None)
ROWS = ["1", "2", "all"]
SHOWN = [Series("plain", 0, [Bar(0.5, 0.4, 0.6), GAP, Bar(1.0, None, None)]), Series("steered", 1, [GAP, GAP, GAP])]


def test_a_figure_is_well_formed_and_names_itself() -> None:
    svg = accuracy("model-1-accuracy", "toy", ROWS, SHOWN)
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.tag == "svg" and root.get("viewBox") and root.get("width") is None and root.get("height") is None
    assert root.get("role") == "img" and "toy" in (root.get("aria-label") or "")
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert ids and all(name and name.startswith("model-1-accuracy-") for name in ids) and len(set(ids)) == len(ids)
    used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
    assert {name for pair in used for name in pair if name} <= set(ids)


def test_ids_of_two_figures_do_not_meet() -> None:
    first, second = (differences(name, "toy", ROWS, SHOWN) for name in ("a", "b"))
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert accuracy("a", "toy", ROWS, SHOWN) == accuracy("a", "toy", ROWS, SHOWN)


def test_marks_and_intervals_stand_only_where_something_was_measured() -> None:
    def marks(series: list[Series]) -> tuple[int, int]:
        svg = accuracy("a", "toy", ROWS, series)
        return svg.count("<use"), svg.count("stroke-width: 2")

    every_mark, every_interval = marks([Series("plain", 0, [Bar(0.5, 0.4, 0.6)] * 3)])
    gap_mark, gap_interval = marks([Series("plain", 0, [Bar(0.5, 0.4, 0.6), GAP, Bar(1.0, None, None)])])
    assert (every_mark - gap_mark, every_interval - gap_interval) == (1, 2)


def test_differences_have_a_line_at_zero_and_room_on_both_sides() -> None:
    svg = differences("a", "toy", ["1"], [Series("steered", 0, [Bar(0.2, 0.1, 0.3)])])
    assert "\u221220" in svg and ">20<" in svg


def test_maps_take_any_values() -> None:
    odd = {"linear": [[None, None]], "log": [[1e-9, 3.0], [None, 0.0]], "signed": [[0.0, 0.0]]}
    for scale, values in odd.items():
        assert "<image" in strip("a", "toy", range(len(values)), values, "variance", scale)
    assert "<image" in strip("a", "toy", [3], [[-1.0, 0.0]], "variance", "log")  # nothing that a logarithm could show
    with pytest.raises(ValueError, match="layers of equally many channels"):
        strip("a", "toy", [], [], "variance", "log")


def test_curves_draw_every_line() -> None:
    svg = curves("a", "toy", {"training": [(1, 2.0), (2, 1.0)], "held out": [(2, 1.5)]}, y_label="loss")
    assert all(f"var(--series-{n})" in svg for n in (2, 3)) and len(SERIES) == 5


def test_names_of_figures_are_plain() -> None:
    with pytest.raises(ValueError, match="a-z, 0-9 and -"):
        curves('"><script>', "toy", {}, y_label="loss")
