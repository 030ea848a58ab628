"""`mplat prompts` writes what the library makes."""

import json

import pyarrow.parquet as pq
import pytest
import typer
from mplat.cli.prompts import prompts as command
from mplat.datasets import facts
from mplat.datasets.records import from_table
from mplat.errors import UsageError
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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
