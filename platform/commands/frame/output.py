"""What a command says: progress on stderr, the result on stdout, once.

Promises
- stdout holds the result and nothing else. With `--json` that is exactly one JSON object on one line; NaN and
  infinities are refused there, because they are not JSON.
- stderr holds progress, notes and warnings. On a terminal progress is one line that redraws itself; in a pipe or file
  it is plain lines, at most one every ten seconds, with no control codes.
- Text that came out of a model or a data set cannot steer the terminal: escape sequences and control characters are
  removed.

It does not log to files (the ledger of a run does), and it formats no figures or reports.
"""

from __future__ import annotations

import dataclasses
import json as json_module
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...models.probe import Cost

# CSI and OSC sequences and the other escapes, then every control character but newline and tab, then the invisible
# characters that reorder the text around them.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]", re.S
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ERASE_LINE = "\r\x1b[2K"
_PLAIN_INTERVAL_S = 10.0


def clean(text: str) -> str:
    """`text` without escape sequences, control characters (newline and tab stay) and text-direction overrides."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


@dataclass
class Invocation:
    """What the error handling must know about the running command, whatever its function does."""

    json: bool = False
    verbose: bool = False
    result_written: bool = False


INVOCATION: ContextVar[Invocation] = ContextVar("mplat_invocation")


def write_json(data: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout; raises ValueError where a number is not finite."""
    text = json_module.dumps(data, allow_nan=False, default=_plain)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    invocation = INVOCATION.get(None)
    if invocation is not None:
        invocation.result_written = True


class Progress:
    """Counts finished work; made by `Output.progress`."""

    def __init__(self, output: Output, title: str, total: int | None, unit: str) -> None:
        self._output, self._title, self._total, self._unit = output, title, total, unit
        self._done, self._note = 0, ""
        self._start = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty() and not output.quiet

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """`count` more are done; `note` (a loss, a rate) is shown behind the count until the next one."""
        self._done += count
        self._note = self._note if note is None else note
        now = time.monotonic()
        if now - self._shown >= (0.1 if self._terminal else _PLAIN_INTERVAL_S):
            self._shown = now
            self._draw()

    def line(self) -> str:
        """The state in words: `evaluate: 30/120 prompts (25%), 12 s, about 36 s left; em 0.41`."""
        elapsed = time.monotonic() - self._start
        parts = [
            f"{self._done}" + (f"/{self._total}" if self._total else "") + (f" {self._unit}" if self._unit else "")
        ]
        if self._total:
            parts[0] += f" ({100 * self._done // self._total}%)"
        parts.append(duration(elapsed))
        if self._total and 0 < self._done < self._total and elapsed >= 1:
            parts.append(f"about {duration(elapsed / self._done * (self._total - self._done))} left")
        return clean(f"{self._title}: {', '.join(parts)}" + (f"; {self._note}" if self._note else ""))

    def erase(self) -> None:
        """Make room for another line; the next `advance` draws this one again."""
        if self._terminal:
            sys.stderr.write(_ERASE_LINE)
            self._shown = 0.0

    def _draw(self) -> None:
        if self._output.quiet:
            return
        if self._terminal:
            width = max(20, shutil.get_terminal_size().columns)
            sys.stderr.write(_ERASE_LINE + self.line()[: width - 1])
        else:
            sys.stderr.write(self.line() + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """The last state stays on the screen."""
        self._draw()
        if self._terminal:
            sys.stderr.write("\n")
            sys.stderr.flush()


class Output:
    """The one way in which a command speaks; made at the top of its function from `--json`, `-q` and `-v`."""

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: int = 0) -> None:
        self.json, self.quiet, self.verbose = json, quiet, verbose
        self._live: Progress | None = None

    def say(self, text: str) -> None:
        """A line about what is going on; silenced by `-q`."""
        if not self.quiet:
            self._stderr(text)

    def detail(self, text: str) -> None:
        """A line that only `-v` shows."""
        if self.verbose and not self.quiet:
            self._stderr(text)

    def warn(self, text: str) -> None:
        """A line that is shown even with `-q`: something the reader must know to trust the result."""
        self._stderr(f"warning: {text}")

    @contextmanager
    def progress(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Progress]:
        """Progress of one piece of work: `with output.progress("evaluate", 120, "prompts") as progress: ...`."""
        progress = self._live = Progress(self, title, total, unit)
        try:
            yield progress
        finally:
            self._live = None
            progress.close()

    def result(self, data: Mapping[str, Any], text: str) -> None:
        """The result, once, at the end: `data` with `--json`, else `text`."""
        if self.json:
            write_json(data)
        else:
            sys.stdout.write(clean(text).rstrip("\n") + "\n")
            sys.stdout.flush()

    def _stderr(self, text: str) -> None:
        if self._live is not None:
            self._live.erase()
        sys.stderr.write(clean(text) + "\n")
        sys.stderr.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned plain text, one line a row: numbers to the right, the rest to the left, `-` for None.

    Never cut to the width of a terminal: what is piped into another program is whole.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(columns)]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float | None) and not isinstance(row[i], bool) for row in rows)
        for i in range(len(columns))
    ]

    def line(values: Sequence[str]) -> str:
        fields = [v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric, strict=True)]
        return "  ".join(fields).rstrip()

    return "\n".join([line(list(columns)), *(line(row) for row in cells)])


def cost_lines(cost: Cost) -> list[str]:
    """An estimate of `mplat.models.probe` in words."""
    return [
        f"time: about {duration(cost.seconds)} in one process; memory: about {cost.memory_bytes / 2**30:.2g} GiB",
        f"estimated: {cost.how}",
    ]


def duration(seconds: float) -> str:
    """`9 s`, `4 min 10 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _plain(value: object) -> object:
    """What JSON has no word for but is safe to write: paths and dataclasses. Anything else is a bug of the command."""
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"a result for --json contains a {type(value).__name__}, which is not JSON")


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
