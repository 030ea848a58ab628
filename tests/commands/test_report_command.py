"""`mplat report`: where the page goes, what it prints, and one sentence for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mplat.commands import main
from report_runs import write_eval_run


def test_a_single_run_gets_its_page_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_eval_run(tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    page = tmp_path / "run" / "report.html"
    assert told["report"] == str(page) and told["missing"] == []
    assert told["evaluations"] == [str(tmp_path / "run")]
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_what_is_missing_is_a_warning_and_the_page_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_eval_run(tmp_path / "run")
    (tmp_path / "run" / "search.parquet").unlink()
    page = tmp_path / "pages" / "one.html"
    assert main(["report", str(tmp_path / "run"), "--out", str(page), "--title", "Mine"]) == 0
    captured = capsys.readouterr()
    assert "warning: the candidates of the search" in captured.err and "mplat eval" in captured.err
    assert captured.out == f"open {page} in a browser\n"
    assert "<title>Mine</title>" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 3, "there is no such run; make one with `mplat quickstart`"),
        (["."], 3, "holds no run"),
        (["a", "b"], 2, "2 runs make one page; say where it goes with --out FILE.html"),
        ([".", "--out", "page.pdf"], 2, "a name that ends in .html"),
        ([".", "--out", "."], 2, "is a folder; give the name of a file"),
        ([], 2, "RUN"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert words in captured.err
    assert not list(tmp_path.iterdir())
