"""A matplotlib figure as SVG that can stand inside an HTML page.

Promises
- Nothing is fetched: no namespaces or metadata with addresses, pictures are data inside the SVG, text is text.
- The colours follow the page: the figure is drawn with the placeholder colours below, which become the page's CSS
  variables, so that light and dark need no second drawing.
- The same figure gives the same bytes, and ids of two figures in one page never meet: each carries the figure's name.

It draws nothing; `figures` does.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Placeholder -> CSS variable of the page. Odd values, so that no colour map hits one by chance.
TEXT = "#010203"
GRID = "#c1c2c3"
SURFACE = "#fdfcfb"
SERIES = ("#4b4c4d", "#0072b3", "#e69f01", "#009e74", "#cc79a8")
_VARIABLES = {TEXT: "--text", GRID: "--grid", SURFACE: "--surface"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)
}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}
_ID = re.compile(r'\b(id=")|(href="#)|(url\(#)')


@contextmanager
def style(name: str) -> Iterator[None]:
    """Drawing inside follows the page; `name` is the figure's and seeds the ids matplotlib makes."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):  # type: ignore[arg-type]
        yield


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element; `description` is read out by screen readers. Call it inside `style(name)`."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(f"the name of a figure is made of a-z, 0-9 and -, not {name!r}")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = _ID.sub(lambda match: f"{match[0]}{name}-", text)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, f"var({variable})")
    # The view box carries the proportions; the page gives the width.
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
