"""Views: the report draws what a step's file says, from the step's own rows, and computes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mplat.core.errors import InputError
from mplat.interp import Job
from mplat.interp.engine.step import STEPS, Tables, step
from mplat.interp.engine.view import BarPart, Beside, Column, LinePart, MapPart, TablePart, View
from mplat.report import load, render
from mplat.report.charts.view_figures import draw
from mplat.report.content import Curves, Point, ShownTable, ValueMap
from mplat.report.sections.views import show
from report_runs import record
from safetensors.torch import save_file

ROWS = [
    {"layer": layer, "site": site, "channel": channel, "group": group, "value": value, "low": low, "high": high}
    for layer, site, channel, group, value, low, high in [
        (10, "b", 0, "top", 2.0, 1.0, 3.0), (10, "b", 1, "random", -0.5, None, None),
        (2, "b", 0, "top", 0.25, 0.125, 0.5), (2, "b", 1, "random", 1.5, None, None),
        (2, "b", 2, "random", None, None, None), (2, "a", 0, None, 7.0, None, None),
    ]
]  # fmt: skip
TABLE = pa.Table.from_pylist(ROWS)


def only_one(part: Any, table: pa.Table = TABLE) -> Any:
    (content,) = show(part, table).shown
    return content


def test_a_map_has_numbers_in_order_and_leaves_gaps() -> None:
    part = MapPart(rows="layer", columns="channel", value="value", each=("site",), title="Of {site}",
                   words={"b": "the second"}, scale="signed")  # fmt: skip
    made = show(part, TABLE)
    first, second = made.shown
    assert isinstance(first, ValueMap) and isinstance(second, ValueMap)
    assert (first.title, second.title) == ("Of the second", "Of a")  # texts with words come first
    assert first.layers == (2, 10) and first.columns == (0, 1, 2)  # numbers, not texts
    assert first.values == ((0.25, 1.5, None), (2.0, -0.5, None)) and second.values == ((7.0,),)
    assert [entry.label for entry in made.shown if isinstance(entry, ValueMap)] == ["value", "value"]


def test_several_joined_by_a_plus_are_called_by_their_parts_where_all_have_words() -> None:
    rows = [{"site": site, "layer": 0, "value": 1.0} for site in ("a+b", "a+c", "+", "a")]
    part = LinePart(x="layer", y="value", each=("site",), title="{site}", words={"a": "first", "b": "second"})
    made = show(part, pa.Table.from_pylist(rows)).shown
    assert [entry.title for entry in made] == ["first", "first and second", "a+c", "+"]


def test_a_map_of_two_values_at_one_place_is_not_drawn_and_said() -> None:
    made = show(MapPart(rows="layer", columns="channel", value="value", title="All"), TABLE)
    assert made.shown == [] and made.notes == ["Not drawn, because there are several values for one place: All."]


def test_rows_are_chosen_by_values_several_values_and_none() -> None:
    def channels(**only: Any) -> list[Any]:
        found = show(TablePart(columns=(Column("channel"),), only=only), TABLE).shown
        return [row[0] for entry in found if isinstance(entry, ShownTable) for row in entry.rows]

    assert channels(group="random") == [1, 1, 2] and channels(group=None) == [0]
    assert channels(group=("top", None), layer=2) == [0, 0] and channels(channel=(1, 2), site="b") == [1, 1, 2]
    assert channels(site="absent") == []


def test_a_table_is_sorted_with_what_is_unknown_last_and_says_what_it_leaves_out() -> None:
    columns = (Column("value", low="low", high="high", form="signed", absent="–"), Column("group", absent=""))
    shown = only_one(TablePart(columns=columns, sort=("-value",), words={"top": "chosen"}))
    assert [row[0] for row in shown.rows] == [
        "+7.000", "+2.000 (+1.000 to +3.000)", "+1.500", "+0.250 (+0.125 to +0.500)", "\u22120.500", "–",
    ]  # fmt: skip
    assert [row[1] for row in shown.rows] == [
        "",
        "chosen",
        "random",
        "chosen",
        "random",
        "random",
    ] and not shown.left_out
    few = only_one(TablePart(columns=columns, sort=("layer", "channel"), top=2))
    assert len(few.rows) == 2 and few.left_out == 4


def test_other_rows_stand_beside_a_row_they_agree_with() -> None:
    draws = Beside({"group": "random"}, same=("layer", "site"))
    controls = Column("value", "controls", beside=draws, form="signed", absent="none")
    columns = (Column("layer"), Column("value"), controls)
    shown = only_one(TablePart(columns=columns, only={"channel": 0}))
    assert shown.columns == ("layer", "value", "controls")
    assert shown.rows == ((10, 2.0, "\u22120.500"), (2, 0.25, "+1.500, not measured"), (2, 7.0, "none"))


def test_lines_are_in_the_order_of_x_and_ways_in_that_of_the_rows() -> None:
    line = only_one(LinePart(x="layer", y="value", low="low", high="high", only={"group": "top"}))
    assert line.lines == (("", (Point(2, 0.25, 0.125, 0.5), Point(10, 2.0, 1.0, 3.0))),)
    way = only_one(LinePart(x="layer", y="value", only={"group": "top"}, path=True))
    assert [point.x for point in way.lines[0][1]] == [10, 2]
    grouped = only_one(LinePart(x="layer", y="value", group="group", only={"site": "b", "channel": (0, 1)}))
    assert [(title, len(points)) for title, points in grouped.lines] == [("top", 2), ("random", 2)]


def test_marks_stand_at_names_in_the_order_of_their_words() -> None:
    part = BarPart(x="site", y="value", only={"channel": 0, "layer": 2}, words={"a": "first", "b": "second"})
    bars = only_one(part)
    assert bars.names == ("first", "second")
    assert {(point.x, point.y) for _, points in bars.lines for point in points} == {("first", 7.0), ("second", 0.25)}


def test_at_most_as_many_figures_as_a_view_wants() -> None:
    made = show(TablePart(columns=(Column("value"),), each=("channel",), most=2), TABLE)
    assert len(made.shown) == 2 and made.notes == ["The first 2 of 3 are drawn; the tables hold the others."]


@pytest.mark.parametrize("kind", ["line", "path", "marks", "map", "log"])
def test_every_figure_is_an_svg_that_shows_names_and_no_more(kind: str) -> None:
    points = tuple(Point(x, y, y / 2, 2 * y) for x, y in [(0, 1.0), (1, 10.0), (64, 0.5)])
    several = tuple((f"line {n}", points) for n in range(7))
    named = (("early", (Point("first token", 1.0, 0.5, 2.0),)), ("late", (Point("last token", -1.0, None, None),)))
    shown = {
        "line": Curves("t", "", "tokens", "share", several, log_x=True),
        "path": Curves("t", "", "one", "two", (("", points),), path=True),
        "marks": Curves("t", "", "where", "effect", named, names=("first token", "last token")),
        "map": ValueMap("t", "", "r", "signed", "feature", "layer", ("delta", "B"), (0, 3), ((0.5, None), (-1.0, 0.0))),
        "log": Curves("t", "", "layer", "tokens", (("mixer", points),), log_y=True),
    }[kind]  # fmt: skip
    svg = draw("a-1", shown)
    assert svg.startswith("<svg") and svg == draw("a-1", shown)
    words = {"line": "line 6", "path": "first", "marks": "last token", "map": "delta", "log": "mixer"}
    assert words[kind] in " ".join(re.findall(r">([^<>]+)<", svg))


def write_run(folder: Path, steps: dict[str, dict[str, pa.Table]], tensors: dict[str, str] | None = None) -> None:
    folder.mkdir(parents=True)
    kept: dict[str, Any] = {}
    for file in (tensors or {}).values():
        save_file({"w": torch.ones(2)}, folder / file)
    for name, tables in steps.items():
        files = {part: f"{name}-{part}.parquet" if part else f"{name}.parquet" for part in tables}
        for part, table in tables.items():
            pq.write_table(table, folder / files[part])
        kept[name] = ({"file": files[""]} if set(files) == {""} else {"parts": files}) | (
            {"tensors": tensors} if tensors else {}
        )
    (folder / "run.json").write_text(json.dumps(record("interp", "toy", details={"steps": kept})))


def test_a_step_without_a_view_is_shown_by_its_first_rows_and_statuses(tmp_path: Path) -> None:
    rows = [{"n": n, "vector": b"\0", "name": f"<i>{n}</i>", "status": "ok" if n else "bad_input"} for n in range(13)]
    write_run(
        tmp_path / "run", {"from_elsewhere": {"": pa.Table.from_pylist(rows), "more": TABLE}}, {"w": "w.safetensors"}
    )
    report = load([tmp_path / "run"])
    (found,) = report.interpretations[0].steps
    first, _ = found.shown
    assert isinstance(first, ShownTable) and first.columns == ("n", "name", "status")
    assert len(first.rows) == 10 and first.left_out == 3
    assert [(file.file, file.rows, file.statuses) for file in found.files] == [
        ("from_elsewhere.parquet", 13, (("bad_input", 1), ("ok", 12))), ("from_elsewhere-more.parquet", 6, ()),
    ]  # fmt: skip
    page = render(report)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for words in (
        "3 more rows are in the file",
        "from_elsewhere.parquet : 13 rows (1 bad_input, 12 ok)",
        "w.safetensors",
    ):
        assert words in text, words
    assert "<i>0</i>" not in page and "&lt;i&gt;0&lt;/i&gt;" in page


def test_a_step_of_tensors_alone_says_where_they_are_and_what_is_gone_is_missing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"directions": {}}, {"": "directions.safetensors", "b": "directions-b.safetensors"})
    report = load([tmp_path / "run"])
    (found,) = report.interpretations[0].steps
    assert found.files == () and found.notes == ()
    text = " ".join(re.sub(r"<[^>]+>", "", render(report)).split())
    assert "directions.safetensors: tensors; directions-b.safetensors: tensors." in text
    (tmp_path / "run" / "directions-b.safetensors").unlink()
    (run,) = load([tmp_path / "run"]).interpretations
    assert run.steps == () and "directions-b.safetensors is not there" in run.missing[0]


def test_what_a_view_names_and_a_table_lacks_is_an_error_and_what_is_empty_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STEPS, "_entries", dict(STEPS._entries))  # the step is forgotten again

    @step("view_of_a_test", view=View("What <b>", "See `elsewhere`.", (
        LinePart(part="curve", x="x", y="y", title="A curve"), TablePart(part="curve", columns=(Column("x"),)),
    )))  # fmt: skip
    def view_of_a_test(job: Job) -> Tables:
        """A step of a test."""
        raise NotImplementedError

    nothing = pa.schema([("x", pa.float64()), ("y", pa.float64()), ("status", pa.string())])
    bad = pa.Table.from_pylist([{"status": "not_applicable"}], schema=nothing)
    write_run(tmp_path / "a", {"view_of_a_test": {"curve": bad.slice(1)}})
    (found,) = load([tmp_path / "a"]).interpretations[0].steps
    assert found.shown == () and "the statuses below say why" in found.notes[0]
    page = render(load([tmp_path / "a"]))
    assert "What &lt;b&gt;" in page and "See <code>elsewhere</code>." in page
    write_run(tmp_path / "b", {"view_of_a_test": {"curve": bad.drop_columns(["y"])}})
    with pytest.raises(InputError, match=r"curve\.parquet: has no column y; make it again with `mplat interp`"):
        load([tmp_path / "b"])
    write_run(tmp_path / "c", {"view_of_a_test": {"other": bad}})
    with pytest.raises(InputError, match="no table 'curve' that its view names"):
        load([tmp_path / "c"])
