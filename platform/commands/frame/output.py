"""What a command says: progress on stderr, the result on stdout, once.

Promises
- stdout holds the result and nothing else. With `--json` that is exactly one JSON object on one line; NaN and
  infinities are refused there, because they are not JSON.
- stderr holds progress, notes and warnings. On a terminal progress is a bar that redraws itself; in a pipe or file it
  is plain lines, at most one every ten seconds.
- Only a terminal gets colours, bars and tables fitted to its width; in pipes and files everything is plain text, whole,
  with no control codes.
- Text that came out of a model or a data set cannot steer the terminal: escape sequences and control characters are
  removed.

It does not log to files (the ledger of a run does), and it formats no figures or reports.
"""

from __future__ import annotations

import dataclasses
import json as json_module
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ...core.plain_text import Table, clean, duration
from . import drawing

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_INTERVAL_S = 10.0
_LIVE_INTERVAL_S = 0.1


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

    def __init__(self, output: Output, title: str, total: int | None, unit: str, brief: bool) -> None:
        self._output, self._title, self._total, self._unit = output, title, total, unit
        self._done, self._note, self._brief = 0, "", brief
        self._start = self._shown = time.monotonic()
        screen = None if output.quiet else output.terminal
        self._live = None if screen is None else drawing.live(screen, transient=brief)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """`count` more are done; `note` (a loss, a rate) is shown behind the count until the next one."""
        self._done += count
        self._note = self._note if note is None else note
        now = time.monotonic()
        if now - self._shown >= (_PLAIN_INTERVAL_S if self._live is None else _LIVE_INTERVAL_S):
            self._shown, self._brief = now, False
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

    def close(self) -> None:
        """The last state stays on the screen, but for brief work."""
        if self._live is None:
            if not self._brief:
                self._draw()
        else:
            self._draw()
            self._live.stop()

    def _draw(self) -> None:
        if self._output.quiet:
            return
        if self._live is None:
            sys.stderr.write(self.line() + "\n")
            sys.stderr.flush()
        else:
            self._live.update(drawing.bar(self._done, self._total, self.line()), refresh=True)


class Output:
    """The one way in which a command speaks; made at the top of its function from `--json`, `-q` and `-v`."""

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: int = 0) -> None:
        self.json, self.quiet, self.verbose = json, quiet, verbose

    @cached_property
    def terminal(self) -> Console | None:
        """stderr as a terminal that can redraw a line; None for pipes and files."""
        return drawing.terminal(sys.stderr)

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
        self._stderr(f"warning: {text}", style="yellow")

    @contextmanager
    def progress(
        self, title: str, total: int | None = None, unit: str = "", *, brief: bool = False
    ) -> Iterator[Progress]:
        """Progress of one piece of work: `with output.progress("evaluate", 120, "prompts") as progress: ...`.

        brief: it is a part of something that is reported when done. No bar of it stays on a terminal, and what takes
        less than ten seconds is worth no line in a pipe or file.
        """
        progress = Progress(self, title, total, unit, brief)
        try:
            yield progress
        finally:
            progress.close()

    def result(self, data: Mapping[str, Any], *words: str | Table) -> None:
        """The result, once, at the end: `data` with `--json`, else the words, each on lines of its own."""
        if self.json:
            write_json(data)
            return
        screen = drawing.terminal(sys.stdout)
        if screen is None or not any(isinstance(part, Table) for part in words):
            sys.stdout.write(clean("\n".join(map(str, words))).rstrip("\n") + "\n")
        else:
            for part in words:
                if isinstance(part, Table):
                    drawing.show(part, screen)
                else:
                    screen.print(clean(part), markup=False, highlight=False, soft_wrap=True)
        sys.stdout.flush()

    def _stderr(self, text: str, style: str | None = None) -> None:
        if self.terminal is None:
            sys.stderr.write(clean(text) + "\n")
            sys.stderr.flush()
        else:  # rich puts it above the progress that is shown
            self.terminal.print(clean(text), style=style, markup=False, highlight=False, soft_wrap=True)


def _plain(value: object) -> object:
    """What JSON has no word for but is safe to write: paths and dataclasses. Anything else is a bug of the command."""
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"a result for --json contains a {type(value).__name__}, which is not JSON")
