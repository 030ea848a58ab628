"""Figures of what an analysis declares in its view: a map of colours, lines with bands, a way, or marks at names.

As in `figures`: marks differ in shape and colour, a value that was not measured leaves a gap, nothing is computed here.
"""

from __future__ import annotations

from textwrap import fill
from typing import Any

from ..content import Curves, Point, ValueMap
from .figures import MARKERS, Bar, Series, canvas, legend, points, strip
from .svg import SERIES, SURFACE, TEXT, style, to_svg

_FEW = 12  # values of x that are all named below the axis
_APART = 0.08  # of the axis, between the names of two values
_NAMES_WIDTH = 50  # characters of all names below the axis


def draw(name: str, shown: ValueMap | Curves) -> str:
    """The figure as SVG; `name` is the page's name for it."""
    if isinstance(shown, ValueMap):
        return strip(
            name, shown.title, shown.layers, shown.values, shown.label, shown.scale, columns=shown.columns,
            axes=(shown.row_title, shown.column_title),
        )  # fmt: skip
    with style(name):
        figure, axis = canvas(4.6, 3.0 + 0.1 * len(shown.lines))
        if shown.path:
            _way(axis, shown)
        elif shown.names:
            _marks(axis, shown)
        else:
            _lines(axis, shown)
        _zero_line(axis, shown)
        if shown.limit is not None:
            axis.axhline(shown.limit, color=TEXT, linewidth=0.8, linestyle="--")
        if shown.log_y and all(v > 0 for _, its in shown.lines for p in its for v in p[1:] if v is not None):
            axis.set_yscale("log")
        axis.set_xlabel(shown.x_label)
        axis.set_ylabel(shown.y_label)
        axis.yaxis.grid(not shown.path)
        _mark_ranges(axis, shown)
        named = [title for title, _ in shown.lines if title] or (["first", "last"] if shown.path else [])
        legend(figure, [*named, shown.marked_title] if shown.marked and shown.marked_title else named)
        return to_svg(figure, name, f"{shown.title}: {shown.y_label} by {shown.x_label}")


def _zero_line(axis: Any, shown: Curves) -> None:
    if any(v is not None and v < 0 for _, its in shown.lines for p in its for v in (p.y, p.low)) and not shown.path:
        axis.axhline(0.0, color=TEXT, linewidth=0.8)


def _mark_ranges(axis: Any, shown: Curves) -> None:
    """Shade ranges of x; a single value is as wide as a mark."""
    reach = axis.get_xlim()
    least = 0.012 * (reach[1] - reach[0])
    for number, (low, high) in enumerate(shown.marked):
        label = (shown.marked_title or None) if number == 0 else None
        axis.axvspan(
            low - least, high + least, color=SERIES[3], alpha=0.13, linewidth=0, zorder=0, label=label
        )  # fmt: skip
    axis.set_xlim(reach)


def _lines(axis: Any, shown: Curves) -> None:
    places = sorted({_number(point) for _, its in shown.lines for point in its})
    for number, (title, its) in enumerate(shown.lines):
        colour, marker = _look(number, len(shown.lines))
        banded = [p for p in its if p.low is not None and p.high is not None]
        axis.fill_between(
            [_number(p) for p in banded], [p.low for p in banded], [p.high for p in banded], color=colour, alpha=0.16,
            linewidth=0,
        )  # fmt: skip
        if len(banded) == 1:  # a band needs two
            axis.plot([_number(banded[0])] * 2, [banded[0].low, banded[0].high], color=colour, linewidth=1.0)
        axis.plot(
            [_number(p) for p in its], [p.y for p in its], color=colour, marker=marker, markersize=5.5,
            markeredgecolor=SURFACE, markeredgewidth=0.7, label=title or None,
        )  # fmt: skip
    if shown.log_x:
        axis.set_xscale("symlog", linthresh=1)
        axis.minorticks_off()
    if len(places) <= _FEW and _can_be_read(axis, places):
        axis.set_xticks(places, [f"{place:g}" for place in places])


def _can_be_read(axis: Any, places: list[float]) -> bool:
    """Whether the names of all places stand apart, each where the axis has it."""
    axis.get_xlim()  # scales the axis to what is drawn
    at = [axis.transData.transform((place, 0))[0] for place in places]
    width = axis.transAxes.transform((1, 0))[0] - axis.transAxes.transform((0, 0))[0]
    return all(b - a > _APART * width for a, b in zip(at, at[1:], strict=False))


def _way(axis: Any, shown: Curves) -> None:
    for number, (title, its) in enumerate(shown.lines):
        colour, _ = _look(number, len(shown.lines))
        xs, ys = [_number(p) for p in its], [p.y for p in its]
        axis.plot(xs, ys, color=colour, linewidth=0.9, marker=".", markersize=3.5, label=title or None)
        for end, marker, label in ((0, "o", "first"), (-1, "s", "last")):
            axis.plot(
                xs[end], ys[end], linestyle="none", color=colour, marker=marker, markersize=7,
                markeredgecolor=SURFACE, label=None if title else label,
            )  # fmt: skip


def _marks(axis: Any, shown: Curves) -> None:
    series: list[Series] = []
    for number, (title, its) in enumerate(shown.lines):
        known = {point.x: point for point in its}
        series.append(Series(title, number, [_bar(known.get(name)) for name in shown.names]))
    points(axis, [fill(name, _NAMES_WIDTH // len(shown.names), break_long_words=False) for name in shown.names], series)


def _bar(point: Point | None) -> Bar:
    return Bar(None, None, None) if point is None else Bar(point.y, point.low, point.high)


def _look(number: int, count: int) -> tuple[str, str]:
    """Colour and marker: of up to five lines both differ, of more the pair does."""
    mark = number if count <= len(MARKERS) else number + number // len(SERIES)
    return SERIES[(number + 1) % len(SERIES)], MARKERS[mark % len(MARKERS)]


def _number(point: Point) -> float:
    assert not isinstance(point.x, str)
    return point.x
