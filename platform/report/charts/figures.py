"""The figures of a report, each a function from numbers to an `<svg>` element.

Marks differ in shape as well as in colour, and the colours (Okabe and Ito's) stay apart for the colour-blind. A value
that was not measured leaves a gap. Intervals are drawn as bars; a mean without an interval (fewer than two items)
stands alone. Nothing is computed here: the figures show the numbers that the tables beside them show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np

from .svg import SERIES, SURFACE, TEXT, style, to_svg


class Bar(NamedTuple):
    """A mean with its interval; mean None: nothing was measured, bounds None: no interval is possible."""

    mean: float | None
    low: float | None
    high: float | None


class Series(NamedTuple):
    """One condition (or comparison) over all rows of a figure; `mark` is its place in the order of marks."""

    title: str
    mark: int
    bars: Sequence[Bar]


MARKERS = ("o", "s", "^", "D", "v")
_LEGEND_CHARACTERS = 70  # what fits below a figure in one row
_ACROSS, _WIDTH = 60, 16  # characters of all labels below a map, and of a line of one
_TALLEST = 6.0  # inches of a map, however many layers it has


def accuracy(name: str, title: str, rows: Sequence[str], series: Sequence[Series]) -> str:
    """Exact match in percent per row (level) for each series, with intervals, on a scale from 0 to 100."""
    with style(name):
        figure, axis = canvas(4.6, 3.3)
        points(axis, rows, series, factor=100)
        axis.set_xlabel("level")
        axis.set_ylim(-2, 102)
        axis.set_ylabel("exact match, %")
        axis.yaxis.grid(True)
        axis.set_title(title, loc="left")
        legend(figure, [entry.title for entry in series])
        return to_svg(figure, name, f"{title}: exact match with 95 % intervals; the table below holds the numbers")


def differences(name: str, title: str, rows: Sequence[str], series: Sequence[Series]) -> str:
    """Paired differences in percentage points per row, with intervals, around a line at zero."""
    with style(name):
        figure, axis = canvas(4.6, 3.3)
        axis.axhline(0.0, color=TEXT, linewidth=1.0)
        points(axis, rows, series, factor=100)
        axis.set_xlabel("level")
        reach = max([abs(v) for s in series for bar in s.bars for v in bar if v is not None], default=0.0)
        limit = 100 * max(0.05, 1.1 * reach)
        axis.set_ylim(-limit, limit)
        axis.set_ylabel("difference, percentage points")
        axis.yaxis.grid(True)
        axis.set_title(title, loc="left")
        legend(figure, [entry.title for entry in series])
        return to_svg(figure, name, f"{title}: differences with 95 % intervals; the tables below hold the numbers")


def strip(
    name: str,
    title: str,
    layers: Sequence[int | float | str],
    values: Sequence[Sequence[float | None]],
    label: str,
    scale: str,
    *,
    columns: Sequence[int | float | str] | None = None,
    axes: tuple[str, str] = ("layer", "channel"),
) -> str:
    """A map: one row per layer, the first at the top, one column per channel; None is left blank.

    scale: linear; log, where values that are not positive are left blank; signed, around zero. columns: default 0, 1,
    and so on. axes: what rows and columns are.
    """
    grid = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
    if grid.ndim != 2 or not grid.size:
        raise ValueError(f"a strip needs layers of equally many channels, not shape {grid.shape}")
    with style(name):
        height = min(0.26 * len(grid), _TALLEST)
        figure, axis = canvas(4.6, 1.0 + height)
        norm, colours = _norm(grid, scale)
        image = axis.imshow(grid, aspect="auto", interpolation="nearest", cmap=colours, norm=norm)
        _ticks(axis.yaxis, layers, most=30)
        across = range(grid.shape[1]) if columns is None else columns
        _ticks(axis.xaxis, across, most=_ACROSS // (2 + max(min(_WIDTH, len(str(label))) for label in across)))
        axis.set_ylabel(axes[0])
        axis.set_xlabel(axes[1])
        bar = figure.colorbar(image, ax=axis, pad=0.02, fraction=0.06, aspect=max(12.0, 8 * height))
        bar.set_label(label)
        bar.outline.set_visible(False)  # type: ignore[operator]
        return to_svg(figure, name, f"{title}: {label} by {axes[0]} and {axes[1]}")


def _steps() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, ..."""
    return (digit * 10**power for power in count() for digit in (1, 2, 5))


def _ticks(axis: Any, labels: Sequence[int | float | str], *, most: int) -> None:
    """As many labels as can be read."""
    every = next(step for step in _steps() if len(labels) <= most * step)
    shown = range(0, len(labels), every)
    axis.set_ticks(shown, [fill(str(labels[i]), _WIDTH, break_long_words=False) for i in shown])


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure that belongs to no window system and no global state."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def _norm(grid: Any, scale: str) -> tuple[Any, str]:
    """How values become colours; a grid without a value that can be shown gets a plain scale."""
    from matplotlib.colors import CenteredNorm, LogNorm, Normalize

    known = grid[np.isfinite(grid)]
    positive = known[known > 0]
    if scale == "log" and len(positive) and positive.min() < positive.max():
        grid[~(grid > 0)] = np.nan
        return LogNorm(positive.min(), positive.max()), "viridis"
    if scale == "signed" and len(known):
        return CenteredNorm(0.0, float(np.abs(known).max()) or 1.0), "PuOr"
    return Normalize(*((known.min(), known.max()) if len(known) else (0.0, 1.0))), "viridis"


def points(axis: Any, rows: Sequence[str], series: Sequence[Series], *, factor: float = 1.0) -> None:
    """A mark with its interval for each row and series, `factor` times the values, rows across."""
    positions = np.arange(len(rows), dtype=float)
    step = 0.62 / max(len(series), 1)
    for number, entry in enumerate(series):
        at = positions + (number - (len(series) - 1) / 2) * step
        shown = [(x, bar) for x, bar in zip(at, entry.bars, strict=True) if bar.mean is not None]
        colour = SERIES[entry.mark % len(SERIES)]
        for x, bar in shown:
            if bar.low is not None and bar.high is not None:
                axis.plot(
                    [x, x], [factor * bar.low, factor * bar.high], color=colour, linewidth=2.0, solid_capstyle="butt"
                )
        axis.plot(
            [x for x, _ in shown],
            [factor * bar.mean for _, bar in shown if bar.mean is not None],
            linestyle="none",
            marker=MARKERS[entry.mark % len(MARKERS)],
            markersize=6.5,
            markerfacecolor=colour,
            markeredgecolor=SURFACE,
            markeredgewidth=0.8,
            label=entry.title,
        )
    axis.set_xticks(positions, rows)
    axis.set_xlim(-0.55, len(rows) - 0.45)
    axis.tick_params(axis="x", length=0)


def legend(figure: Any, titles: Sequence[str]) -> None:
    if titles:
        one_row = sum(len(title) + 6 for title in titles) <= _LEGEND_CHARACTERS
        columns = len(titles) if one_row else max(1, _LEGEND_CHARACTERS // (6 + max(map(len, titles))))
        figure.legend(loc="outside lower left", ncols=columns, handletextpad=0.4, columnspacing=1.2)
