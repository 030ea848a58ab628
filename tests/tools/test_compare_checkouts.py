"""Two checkouts are compared to the last bit: what counts as a difference, what does not, and how it is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compare_checkouts import Row, main, report
from result_files import Allowed, Verdict, compare_files, compare_folders, differing_rows

TABLE = pa.table({"name": ["a", "b", None], "value": [0.0, float("nan"), 0.1], "parts": [[1.0, -0.0], None, []]})

BUT_FOR_KEYS = Allowed()


@pytest.fixture
def verdict(tmp_path):
    """The verdict on two tables, or two JSON texts."""

    def judge(before, after, allowed: Allowed = BUT_FOR_KEYS, file: str | None = None) -> Verdict:
        paths = [tmp_path / "before", tmp_path / "after"]
        for path, content in zip(paths, (before, after), strict=True):
            if isinstance(content, str):
                path.write_text(content)
            else:
                pq.write_table(content, path)
        return compare_files(*paths, file or ("x.json" if isinstance(before, str) else "x.parquet"), allowed)

    return judge


def _with_value(row: int, value: float) -> pa.Table:
    values = TABLE["value"].to_pylist()
    values[row] = value
    return TABLE.set_column(1, "value", [pa.array(values)])


def test_the_same_table_has_the_same_bytes(verdict):
    assert verdict(TABLE, TABLE) == Verdict(True, "same bytes", 3)


@pytest.mark.parametrize(
    ("row", "value", "words"),
    [
        (2, float(np.nextafter(0.1, 1)), "0.1 became 0.10000000000000002"),
        (0, -0.0, "0.0 became -0.0"),
        (1, 0.0, "nan became 0.0"),
        (2, float("nan"), "0.1 became nan"),
        (0, None, "0.0 became None"),
    ],
    ids=["last bit", "-0.0", "NaN gone", "NaN new", "null"],
)
def test_a_changed_value_is_named(verdict, row, value, words):
    assert verdict(TABLE, _with_value(row, value)) == (
        False,
        f"column value: 1 of 3 rows differ, first row {row}: {words}",
        3,
    )


@pytest.mark.parametrize(
    ("before", "after", "rows"),
    [
        (pa.array([[1.0, 0.0], [2.0]]), pa.array([[1.0, -0.0], [2.0]]), [0]),
        (pa.array([[1], [2], None]), pa.array([[1], [2, 3], []]), [1, 2]),
        (pa.array([None, [[1.0], []], [[2.0]]]), pa.array([None, [[1.0], []], [[3.0]]]), [2]),
        (pa.array([{"a": 0.0, "b": "x"}, None]), pa.array([{"a": -0.0, "b": "x"}, None]), [0]),
        (pa.array([{"a": None}, {"a": 1}]), pa.array([None, {"a": 1}]), [0]),
        (pa.array(["x", "y"]).dictionary_encode(), pa.array(["y", "y"]).dictionary_encode(), [0]),
        (
            pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2)),
            pa.array([[1, 2], [1, 3]], pa.list_(pa.float32(), 2)),
            [1],
        ),
        (pa.array([np.float16(1)] * 2), pa.array([np.float16(1), np.float16(2)]), [1]),
        (pa.array([True, None]), pa.array([False, None]), [0]),
        (pa.array([b"\0", b""]), pa.array([b"\0", None]), [1]),
        (pa.array([], pa.list_(pa.int8())), pa.array([], pa.list_(pa.int8())), []),
    ],
)
def test_rows_of_every_kind_of_column_are_compared(before, after, rows):
    assert np.flatnonzero(differing_rows(before, after)).tolist() == rows
    assert not differing_rows(before, before).any() and not differing_rows(after, after).any()


def test_rows_of_a_slice_are_its_own():
    whole = pa.array([[9.0], [1.0], [2.0, 3.0]])
    assert differing_rows(whole[1:], pa.array([[1.0], [2.0, 4.0]])).tolist() == [False, True]


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (TABLE.slice(0, 2), "3 rows became 2"),
        (TABLE.rename_columns(["name", "worth", "parts"]), "other columns: without value; also worth"),
        (
            TABLE.select(["value", "name", "parts"]),
            "other order of columns: name, value, parts became value, name, parts",
        ),
        (TABLE.set_column(1, "value", [pa.array([0, 1, 2], pa.float32())]), "column value: type double became float"),
        (
            TABLE.cast(pa.schema([TABLE.field(0), TABLE.field(1).with_nullable(False), TABLE.field(2)])),
            "column value: null is no longer allowed",
        ),
        (
            TABLE.cast(pa.schema([TABLE.field(0), TABLE.field(1).with_metadata({"meaning": "m"}), TABLE.field(2)])),
            "column value: other metadata",
        ),
        (TABLE.replace_schema_metadata({"seed": "1"}), "same rows, other metadata: seed"),
        (TABLE.replace_schema_metadata({"mplat.key": "1", "seed": "1"}), "same rows, other metadata: seed"),
    ],
)
def test_another_shape_is_named(verdict, after, words):
    assert verdict(TABLE, after) == (False, words, 3)


def test_only_a_content_key_may_differ_and_only_between_checkouts(verdict):
    old, new = (TABLE.replace_schema_metadata({"mplat.key": key, "seed": "1"}) for key in ("a", "longer"))
    assert verdict(old, new) == (True, "same table, other key: mplat.key", 3)
    assert not verdict(old, new, Allowed(keys=False)).same


def test_other_pages_of_the_same_rows_are_a_difference(tmp_path):
    for name, compression in (("before", "zstd"), ("after", "snappy")):
        pq.write_table(TABLE, tmp_path / name, compression=compression)
    words = "same rows, other pages: encoding, compression or row groups"
    assert compare_files(tmp_path / "before", tmp_path / "after", "x.parquet", Allowed()) == (False, words, 3)


def test_columns_are_left_out_where_that_is_said(verdict):
    after = TABLE.drop_columns(["parts"])
    allowed = Allowed(dropped_columns={"own/*.parquet": ("parts",)})
    assert verdict(TABLE, after, allowed, "own/x.parquet") == (True, "same table without parts", 3)
    assert not verdict(TABLE, after, allowed, "other/x.parquet").same
    assert not verdict(TABLE, _with_value(0, 1.0), allowed, "own/x.parquet").same


@pytest.mark.parametrize(
    ("before", "after", "same", "words"),
    [
        ('{"a": [1, 0.5]}', '{"a": [1, 0.5]}', True, "same bytes"),
        ('{"a": [1, 0.5]}', '{"a": [1, 0.50000000000000001]}', False, "a[1]: 0.5 became 0.50000000000000001"),
        ('{"a": {"b": 1}}', '{"a": {"b": "1"}}', False, "a.b: 1 became '1'"),
        ('{"a": 1}', '{"a": 1.0}', False, "a: 1 became 1.0"),
        ('{"a": 1}', '{"a": true}', False, "a: 1 became True"),
        ('{"a": 1}', '{"a": 1, "b": null}', False, "b: missing before"),
        ('{"a": {"key": "x", "n": 1}}', '{"a": {"key": "y", "n": 1}}', True, "same values, other key: a.key"),
        ('{"key": "x", "n": 1}', '{"n": 1}', True, "same values, other key: key"),
        ('{"key": "x", "n": 1}', '{"key": "y", "n": 2}', False, "n: 1 became 2"),
        ('{"a": 1}', '{ "a": 1}', False, "same values, other order of keys or other spacing"),
        (
            '{"a": 1}',
            "{",
            False,
            "cannot be read: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
    ],
)
def test_json_is_compared_as_written_but_for_keys(verdict, before, after, same, words):
    assert verdict(before, after) == (same, words, None)


def test_a_folder_is_compared_file_by_file(tmp_path):
    for side in ("before", "after"):
        alone = [f"only_{side}{suffix}" for suffix in (".txt", ".png", ".run.json")]
        for name in ("run.json", "same.txt", "page.html", f"old_{side}.txt", *alone):
            path = tmp_path / side / "out" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(side if name in {"run.json", "page.html"} else "text")
        for ignored in ("data/input.txt", "out/work/part.txt", ".cache/entry.txt", "out/.lock"):
            path = tmp_path / side / ignored
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(side)
    allowed = Allowed(renamed={"out/old_before.txt": "out/old_after.txt"})
    assert compare_folders(tmp_path / "before", tmp_path / "after", allowed, ["data"]) == [
        ("out/old_before.txt", (True, "same bytes", None)),
        ("out/only_after.png", (True, "not judged: missing before", None)),
        ("out/only_after.run.json", (True, "not judged: missing before", None)),
        ("out/only_after.txt", (False, "missing before", None)),
        ("out/only_before.png", (True, "not judged: missing after: out/only_before.png", None)),
        ("out/only_before.run.json", (True, "not judged: missing after: out/only_before.run.json", None)),
        ("out/only_before.txt", (False, "missing after: out/only_before.txt", None)),
        ("out/page.html", (True, "not judged: other bytes", None)),
        ("out/run.json", (True, "not compared", None)),
        ("out/same.txt", (True, "same bytes", None)),
    ]


def test_the_report_marks_differences():
    rows = [
        Row("eval", "none", "a.parquet", Verdict(True, "same bytes", 3)),
        Row("x", "none", "b", Verdict(False, "no")),
    ]
    assert report(rows) == (
        "   command  address  file       rows  verdict\n"
        "   eval     none     a.parquet  3     same bytes\n"
        "!  x        none     b                no\n"
    )


# Whole comparisons. A program in place of a checkout writes a file that says where it ran, or fails.
PROGRAM = """
import os, pathlib, sys
import mplat
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--out") + 1])
out.mkdir()
(out / "result.txt").write_text(mplat.ANSWER + ("local" if mplat.DEPENDS and "local" in words else ""))
assert not any(pathlib.Path(os.environ["MPLAT_CACHE"]).glob("*")), "the cache is not fresh"
sys.exit(mplat.EXIT)
"""


def _checkout(folder: Path, *, answer: str = "42", depends: bool = False, exit_code: int = 0) -> Path:
    (folder / "front" / "mplat").mkdir(parents=True)
    values = f"ANSWER, DEPENDS, EXIT = {answer!r}, {depends}, {exit_code}\n"
    (folder / "front" / "mplat" / "__init__.py").write_text(values)
    (folder / "cli.py").write_text(PROGRAM)
    return folder


@pytest.mark.parametrize(
    ("after", "code", "marked"),
    [
        ({}, 0, []),
        ({"answer": "41"}, 1, ["other bytes"] * 4),
        ({"depends": True}, 1, ["other bytes"] * 4),
        ({"exit_code": 3}, 1, ["nothing was said"] * 4),
    ],
    ids=["same", "other answer", "depends on workers", "fails"],
)
def test_two_checkouts_are_run_and_compared(tmp_path, capfd, after, code, marked):
    sides = [_checkout(tmp_path / "before"), _checkout(tmp_path / "after", **after)]
    words = [str(side) for side in sides]
    assert main([*words, "--commands", "perplexity", "--work", str(tmp_path / "work")]) == code
    lines = capfd.readouterr().out.splitlines()[1:-2]
    assert [line.split(": ")[-1].split("  ")[-1] for line in lines if line.startswith("!")] == marked
    assert len(lines) == 8 + (
        4 if after.get("exit_code") else 0
    )  # two runs: before = after twice, none = 2 workers twice


@pytest.mark.slow
def test_a_checkout_agrees_with_itself(root, tmp_path):
    argv = [sys.executable, str(root / "tools" / "compare_checkouts.py"), str(root), str(root), "--commands", "prompts"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same bytes") == 3 and "3 comparisons, 0 differences" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["{here}", "{here}"],
        ["{root}", "{root}", "--work", "{root}"],
        ["{root}"],
        ["{root}", "{root}", "--commands", "no"],
    ],
    ids=["no checkout", "folder in use", "one alone", "unknown command"],
)
def test_what_cannot_be_done_ends_with_2(words, root, tmp_path, capsys):
    try:
        code = main([word.format(here=tmp_path, root=root) for word in words])
    except SystemExit as exit:
        code = exit.code
    assert code == 2 and "error: " in capsys.readouterr().err
