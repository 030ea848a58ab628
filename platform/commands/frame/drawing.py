"""What only a terminal gets: a bar of progress, tables fitted to its width, and help in colours.

rich draws; it is imported when there is a terminal to draw on, so that pipes, files and `mplat --help` do not wait for
it. Text is given to it as it is, never as its markup.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from ...core.plain_text import Table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_BAR_WIDTH = 16  # of the 80 columns of a small terminal


def terminal(stream: TextIO) -> Console | None:
    """`stream` as a terminal on which lines can be redrawn, None where it is none."""
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return None
    from rich.console import Console

    return Console(file=stream, emoji=False)


def live(console: Console, *, transient: bool) -> Live:
    """Lines that are redrawn in place, when asked to: no thread competes with the work, and no stream is redirected.
    transient: they vanish at the end."""
    from rich.live import Live

    display = Live(
        console=console, auto_refresh=False, transient=transient, redirect_stdout=False, redirect_stderr=False
    )
    display.start()
    return display


def bar(done: int, total: int | None, line: str) -> RenderableType:
    """The share that is done, where it is known, and `line` beside it, cut to the terminal."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid.grid(padding=(0, 1))
    words = Text(line, no_wrap=True, overflow="ellipsis")
    if total:
        grid.add_column(width=_BAR_WIDTH)
        grid.add_row(ProgressBar(total=total, completed=done, width=_BAR_WIDTH), words)
    else:
        grid.add_row(words)
    return grid


def show(table: Table, console: Console) -> None:
    """A table fitted to a terminal: cells are wrapped between words. Where the words do not fit, it is left to the
    terminal as the text it is."""
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    widths, gap = _widths(table, console.width)
    if widths is None:
        console.print(str(table), markup=False, highlight=False, soft_wrap=True)
        return
    drawn = Drawn(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap - 1, 0, 0), pad_edge=False)
    for name, number, width in zip(table.columns, table.numeric(), widths, strict=True):
        drawn.add_column(Text(name), justify="right" if number else "left", overflow="fold", width=width)
    for row in table.cells():
        drawn.add_row(*map(Text, row))
    console.print(drawn)


def _widths(table: Table, room: int) -> tuple[list[int] | None, int]:
    """Widths of the columns and of the gap between them; None where the words of the cells do not fit.

    Names and numbers stay whole. Where room lacks, the words of the titles are broken.
    """
    columns = list(zip(table.columns, *table.cells(), strict=True))
    whole = [max(map(len, column)) for column in columns]
    words = [_longest_word(column) for column in columns]
    in_cells = [_longest_word(column[1:]) for column in columns]
    for least, most, gap in ((words, whole, 2), (in_cells, words, 1)):
        left = room - gap * (len(columns) - 1)
        widths = [
            [max(low, min(high, cap)) for low, high in zip(least, most, strict=True)] for cap in range(1, room + 1)
        ]
        if fitting := [each for each in widths if sum(each) <= left]:
            return fitting[-1], gap
    return None, 0


def _longest_word(cells: Sequence[str]) -> int:
    return max((len(word) for cell in cells for word in cell.split()), default=1)


def coloured_help(text: str, stream: TextIO) -> str:
    """Help with its headings and options in colours, where `stream` is a terminal that has some."""
    console = terminal(stream)
    if console is None or console.color_system is None:
        return text
    from rich.text import Text

    shown = Text(text)
    shown.highlight_regex(re.compile(r"^(Usage|[A-Z][a-z]+(?=:$))", re.MULTILINE), "bold")
    shown.highlight_regex(re.compile(r"(?<![\w-])--?[a-z][a-z-]*"), "cyan")
    with console.capture() as captured:
        console.print(shown, soft_wrap=True, end="")
    return captured.get()
