"""Heat maps of a trace: layers across, tokens (or token bins) down, one panel for each site, as PNG and SVG.

Every panel has its own scale, printed beside it, centred at no effect: brown brings the clean answer back, purple takes
it further away. A panel whose effects are all exactly zero is blank. A cell that was not measured is hatched.
Labels are text as the tokenizer has it, line breaks and the like made visible; the subject's tokens carry a star.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "mplat-trace", "font.family": "sans-serif", "font.size": 8.0,
    "axes.titlesize": 9.0, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.spines.bottom": False,
}  # fmt: skip
COLOURS = "PuOr_r"


class Panel(NamedTuple):
    """One site: effects[row][column] by token (or bin) and layer, None where there is no value."""

    title: str
    effects: Sequence[Sequence[float | None]]


class HeatMap(NamedTuple):
    """A picture: what it shows in words, its panels, and what all of them have in common. notes: below the title;
    they say what the colours mean."""

    title: str
    notes: Sequence[str]
    rows: Sequence[str]
    layers: Sequence[int]
    panels: Sequence[Panel]


def visible_token(text: str, *, starred: bool = False) -> str:
    """A token as a label: white space and control characters that cannot be seen become visible."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    shown = f"\u2423{shown[1:]}" if shown.startswith(" ") else shown
    return f"{shown or '(empty)'}{'*' if starred else ''}"


def render(picture: HeatMap) -> dict[str, bytes]:
    """The picture as bytes by file ending, "png" and "svg"; the same picture gives the same bytes."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for it
        figure = _figure(picture)
        found = {}
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=130, metadata=metadata, facecolor="white")
            found[kind] = buffer.getvalue()
    return found


def _figure(picture: HeatMap) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(_COLUMNS, len(picture.panels))
    down = -(-len(picture.panels) // across)
    longest = max(len(row) for row in picture.rows)
    width = 0.5 + 0.075 * longest + across * (1.35 + 0.13 * min(len(picture.layers), 30))
    height = 0.75 + 0.16 * len(picture.notes) + down * (0.75 + 0.165 * len(picture.rows))
    figure = Figure(figsize=(max(width, 4.8), height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for axis, panel in zip(axes.flat, picture.panels, strict=False):
        _panel(figure, axis, panel, picture)
    for axis in axes.flat[len(picture.panels) :]:
        axis.set_visible(False)
    figure.suptitle("\n".join([picture.title, *picture.notes]), x=0.01, ha="left", fontsize=9.0, parse_math=False)
    return figure


def _panel(figure: Figure, axis: Any, panel: Panel, picture: HeatMap) -> None:
    from matplotlib.colors import CenteredNorm

    grid = np.array([[np.nan if value is None else value for value in row] for row in panel.effects], dtype=float)
    known = np.abs(grid[np.isfinite(grid)])
    largest = float(known.max()) if len(known) else 0.0
    axis.set_facecolor("#eeeeee")
    axis.patch.set_hatch("////")
    axis.patch.set_edgecolor("#c8c8c8")
    image = axis.imshow(
        grid, aspect="auto", interpolation="nearest", cmap=COLOURS, norm=CenteredNorm(0.0, largest or 1.0)
    )
    axis.set_title(panel.title, loc="left", parse_math=False)
    axis.set_yticks(range(len(picture.rows)), picture.rows, parse_math=False)
    every = -(-len(picture.layers) // 12)
    shown = range(0, len(picture.layers), every)
    axis.set_xticks(shown, [str(picture.layers[i]) for i in shown])
    axis.set_xlabel("layer")
    axis.tick_params(length=0)
    if largest:
        ends = [-largest, 0.0, largest]
        bar = figure.colorbar(image, ax=axis, pad=0.03, aspect=30, ticks=ends)
        bar.set_ticklabels([f"{value:.2g}".replace("-", "\u2212", 1) if value else "0" for value in ends])
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.tick_params(length=2)
