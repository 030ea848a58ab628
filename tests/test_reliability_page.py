"""docs/reliability.md has every fault and every bad input by its number, and tests that bear it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = (
    (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").partition("## Faults and bad inputs by number")[2]
)
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines() if line.startswith("| ")]
NUMBERED = re.compile(r"^def test_((?:[fi]\d+_)+)\w+\(", re.M)


def test_every_number_stands_there_once_with_a_promise() -> None:
    assert [row[0] for row in ROWS] == ["Number", *(f"F{n}" for n in range(1, 36)), *(f"I{n}" for n in range(1, 20))]
    assert all(len(row) == 4 and row[1].endswith(".") for row in ROWS[1:])


def test_every_number_has_tests_that_exist_and_bear_it() -> None:
    for number, _, tests, _ in ROWS[1:]:
        named = re.findall(r"`([\w/.]+)::(test_\w+)`", tests)
        assert named, number
        for file, name in named:
            assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (number, file, name)
            numbers = re.match(r"test_((?:[fi]\d+_)+)", name)
            assert numbers is not None and number.lower() in numbers[1].split("_"), (number, name)


def test_every_test_with_a_number_is_named_there() -> None:
    missing = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for match in NUMBERED.finditer(path.read_text(encoding="utf-8")):
            name = match[0].removeprefix("def ").removesuffix("(")
            where = f"`{path.relative_to(ROOT / 'tests').as_posix()}::{name}`"
            rows = {row[0].lower() for row in ROWS[1:] if where in row[2]}
            missing += [] if rows == set(match[1].rstrip("_").split("_")) else [where]
    assert missing == []
