"""`mplat prompts` writes what the library makes."""

import json

import pyarrow.parquet as pq
import pytest
import typer
from mplat.commands.prompts import prompts as command
from mplat.core.errors import UsageError
from mplat.datasets import facts
from mplat.datasets.records import from_table
from typer.testing import CliRunner

app = typer.Typer()
app.command()(command)


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_file_holds_the_questions(tmp_path):
    out = tmp_path / "new" / "questions.parquet"
    result = run("--per-level", "4", "--seed", "9", "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "questions": 24, "per_level": 4, "seed": 9, "split": "eval", "levels": {str(i): 4 for i in range(1, 7)},
        "out": str(out),
    }  # fmt: skip
    assert from_table(pq.read_table(out)) == facts.prompts(4, 9)
    assert [p.name for p in out.parent.iterdir()] == ["questions.parquet"]


def test_same_arguments_same_bytes(tmp_path):
    for name in ("a.parquet", "b.parquet"):
        run("--per-level", "3", "--out", str(tmp_path / name))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_without_out_one_example_of_each_level_is_shown():
    result = run("--per-level", "2")
    assert result.exit_code == 0
    assert all(f"level {level} " in result.stdout for level in range(1, 7))
    assert result.stdout.count("\nA: ") == 6


def test_controls_distances_and_examples_are_counted_and_kept(tmp_path):
    out = tmp_path / "made.parquet"
    words = ["--controls", "deleted,deleted_hop_2", "--distances", "0,50", "--shots", "1"]
    result = run("--per-level", "2", *words, "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["questions"] == 12 and told["levels"] == {"1": 4, "2": 4, "3": 4} and told["shots"] == 1
    assert told["controls"] == {"deleted": 12, "deleted_hop_2": 8}
    reached = [(d["distance"], d["questions"], d["tokens"]) for d in told["distances"]]
    assert reached == [(0, 6, [0, 0]), (50, 6, [50, 50])]
    kinds = ["deleted", "deleted_hop_2"]
    assert from_table(pq.read_table(out)) == facts.prompts(2, 0, controls=kinds, distances=(0, 50), shots=1)


def test_the_last_line_counts_the_controls():
    result = run("--per-level", "2", "--controls", "absent_entity", "--quiet")
    assert result.stdout == "12 questions, 12 absent_entity; --out FILE.parquet keeps them\n"


def test_the_help_names_every_control():
    told = " ".join(run("--help").stdout.replace("\u2502", " ").split())
    assert all(kind.removesuffix("_2").removesuffix("_3") in told for kind in facts.control_names())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--controls", "delted"], "did you mean 'deleted'"),
        (["--distances", "12,x"], "'x' is no whole number from 0"),
        (["--distances", "12,12"], "12 is given more than once"),
        (["--distances", "90000"], "used up after"),
        (["--distances", "1", "--distance-unit", "fact"], "did you mean 'facts'"),
        (["--shots", "17"], "0 to 16 worked examples"),
        (["--per-level", "0"], "at least 1"),
        (["--per-level", "1000000"], "distinct questions"),
        (["--split", "evaluation"], "did you mean 'eval'"),
        (["--out", "questions.json"], r"ends in \.parquet"),
    ],
)
def test_wrong_arguments_are_usage_errors(arguments, message):
    result = run(*arguments)
    assert isinstance(result.exception, UsageError)
    with pytest.raises(UsageError, match=message):
        raise result.exception
