"""Curves of training: values by step or token, one line a run or set, and marks at steps that stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .figures import canvas, legend
from .svg import SERIES, TEXT, style, to_svg

_DASHES = ("-", "--", ":", "-.")

Line = Sequence[tuple[float, float]]


def curves(
    name: str,
    title: str,
    lines: Mapping[str, Line],
    *,
    y_label: str,
    x_label: str = "step",
    pale: Mapping[str, Line] | None = None,
    spots: Mapping[str, Line] | None = None,
    ticks: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """An SVG of `lines`, each told by colour and dashes. pale: drawn thin, behind, in the colour of the line of that
    name. spots: marked points. ticks: places on the x-axis."""
    with style(name):
        figure, axis = canvas(4.6, 2.8 + 0.05 * len(lines))
        named: list[str] = []
        for number, (entry, points) in enumerate(lines.items()):
            colour = SERIES[(number + 1) % len(SERIES)]
            if points_behind := (pale or {}).get(entry):
                axis.plot(*_axes(points_behind), color=colour, alpha=0.35, linewidth=0.7)
            dashes = _DASHES[number // len(SERIES) % len(_DASHES)]
            axis.plot(*_axes(points), color=colour, linestyle=dashes, label=entry)
            named.append(entry)
        for marker, (entry, points) in zip("vo^", (spots or {}).items(), strict=False):
            axis.plot(*_axes(points), linestyle="none", marker=marker, markersize=5.5, color=TEXT, label=entry)
            named.append(entry)
        for entry, places in (ticks or {}).items():
            # along the lower edge, whatever the values are
            axis.plot(
                places, [0.015] * len(places), transform=axis.get_xaxis_transform(), linestyle="none", marker="|",
                markersize=8, color=TEXT, label=entry,
            )  # fmt: skip
            named.append(entry)
        axis.set_xlabel(x_label)
        axis.xaxis.set_major_formatter(lambda value, _: _count(value))
        axis.set_ylabel(y_label)
        axis.yaxis.grid(True)
        axis.set_title(title, loc="left")
        legend(figure, named)
        return to_svg(figure, name, f"{title}: {y_label} against {x_label}")


def _count(value: float) -> str:
    """`500`, `1.5k`, `20M`, `2.5B`."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _axes(points: Line) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
