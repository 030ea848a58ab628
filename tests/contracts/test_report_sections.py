"""What every registered section of the report promises: it belongs to a command, and makes nothing up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mplat.commands.frame.command import COMMANDS
from mplat.core.errors import InputError
from mplat.report import load, render
from mplat.report.section import SECTIONS
from report_runs import record


@pytest.mark.parametrize("name", SECTIONS.names())
def test_a_run_of_which_only_the_record_is_left_is_said_to_be_so(name: str, tmp_path: Path) -> None:
    assert name in COMMANDS.names() and SECTIONS.get(name).__doc__
    (tmp_path / "run.json").write_text(json.dumps(record(name, "<b>nano")))
    try:
        report = load([tmp_path])
    except InputError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)
        return
    shown = [*report.evaluations, *report.interpretations]
    assert any(run.missing for run in shown) or report.trainings
    page = render(report)
    assert str(tmp_path) in page and "<b>nano" not in page
    assert render(load([tmp_path])) == page
