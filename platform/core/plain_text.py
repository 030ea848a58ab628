"""Text for people: tables, durations, and text that cannot steer a terminal.

A stage puts what it found into sentences and `Table`s; what shows them decides how a table looks. As text it is whole,
never cut to a width, because it may be piped into another program.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

# CSI and OSC sequences and the other escapes, then every control character but newline and tab, then the invisible
# characters that reorder the text around them.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]", re.S
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """`text` without escape sequences, control characters (newline and tab stay) and text-direction overrides."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


class Table(NamedTuple):
    """Rows under names; `str` of it is aligned text: numbers to the right, the rest to the left, `-` for None."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def cells(self) -> list[list[str]]:
        """Every value as it is shown."""
        return [[_cell(value) for value in row] for row in self.rows]

    def numeric(self) -> list[bool]:
        """Which columns hold numbers alone."""
        return [
            bool(self.rows)
            and all(isinstance(row[i], int | float | None) and not isinstance(row[i], bool) for row in self.rows)
            for i in range(len(self.columns))
        ]

    def __str__(self) -> str:
        cells, numeric = self.cells(), self.numeric()
        widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(self.columns)]

        def line(values: Sequence[str]) -> str:
            fields = [v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric, strict=True)]
            return "  ".join(fields).rstrip()

        return "\n".join([line(self.columns), *map(line, cells)])


def with_interval(mean: float | None, low: float | None, high: float | None, form: str, bounds: str) -> str:
    """`0.412 [0.35, 0.47]`, the numbers in these formats; without an interval where none is known, `-` for no mean."""
    if mean is None:
        return "-"
    interval = "" if low is None or high is None else f" [{low:{bounds}}, {high:{bounds}}]"
    return f"{mean:{form}}{interval}"


def duration(seconds: float) -> str:
    """`9 s`, `4 min 10 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short_duration(seconds: float) -> str:
    """As `duration`, under ten seconds with tenths: `0.3 s`."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def byte_size(count: float) -> str:
    """`310 bytes`, `4.2 KiB`, `1.3 GiB`."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.3g} {unit}"
    return f"{count:.0f} bytes"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return clean(str(value)).replace("\n", " ").replace("\t", " ")
