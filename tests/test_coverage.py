"""What docs/coverage.md names exists: steps, commands, figures of their views, and tests."""

from __future__ import annotations

import re
from pathlib import Path

from mplat.commands.frame.command import COMMANDS
from mplat.interp import all_steps

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| Analysis", "| Task"))
]
ANALYSES = [row for row in ROWS if len(row) == 5]


def homes(row: list[str]) -> list[str]:
    return re.findall(r"`([^`]+)`", row[1])


def test_every_step_stands_there_and_every_home_exists() -> None:
    named = {home for row in ROWS for home in homes(row)}
    steps = {home for home in named if " " not in home}
    assert steps == set(all_steps())
    commands = {name.split()[0] for name in COMMANDS.names()}
    for command in (home.split() for home in named if " " in home):
        assert command[0] == "mplat" and command[1] in commands, command


def test_every_figure_is_one_of_its_steps_views() -> None:
    steps = all_steps()
    assert len(ANALYSES) > 40
    for row in ANALYSES:
        views = [steps[home].view for home in homes(row) if home in steps]
        titles = {part.title for view in views if view is not None for part in view.parts}
        assert not titles or row[2] in titles, (row[0], sorted(titles))


def test_every_proof_is_there() -> None:
    for row in ROWS:
        (where,) = re.findall(r"`([^`]+)`", row[3 if len(row) == 5 else 2])
        file, _, name = where.partition("::")
        path = ROOT / "tests" / file
        assert path.exists(), where
        assert not name or f"def {name}(" in path.read_text(encoding="utf-8"), where
