"""The page of operators has a row for each, with its units."""

from __future__ import annotations

import re
from pathlib import Path

from mplat.steering import find_operator, operator_names

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operators.md"


def test_every_operator_has_a_row_with_its_units_and_nothing_else_has():
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    said = {name: re.findall(r"`(\w+)`", units) for name, units in rows}
    assert len(said) == len(rows)
    assert said == {name: list(find_operator(name).units) for name in operator_names()}
