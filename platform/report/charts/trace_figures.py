"""The figures of a trace: effects over layers, a line for each kind of token, and the same as a heat map.

As in `figures`: marks differ in shape and colour, a value that was not measured leaves a gap, nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..content import TracedSite
from .figures import MARKERS, canvas
from .svg import SERIES, SURFACE, TEXT, style, to_svg

_SPREAD = 0.32  # of a layer's width, over which the lines of one layer are set apart so that intervals do not hide


def curves(name: str, entry: TracedSite, layers: Sequence[int], unit: str) -> str:
    """Average indirect effect with intervals over layers, one line for each kind of token."""
    drawn = [line for line in entry.bins if line.drawn]
    with style(name):
        figure, axis = canvas(4.6, 3.4)
        axis.axhline(0.0, color=TEXT, linewidth=0.8)
        places = np.arange(len(layers), dtype=float)
        for number, line in enumerate(drawn):
            at = places + _SPREAD * ((number + 0.5) / len(drawn) - 0.5)
            colour = SERIES[number % len(SERIES)]
            for x, effect in zip(at, line.effects, strict=True):
                if effect.low is not None and effect.high is not None:
                    axis.plot([x, x], [effect.low, effect.high], color=colour, linewidth=1.6, solid_capstyle="butt")
            means = [np.nan if effect.mean is None else effect.mean for effect in line.effects]
            axis.plot(
                at, means, color=colour, linewidth=1.0, marker=MARKERS[number % len(MARKERS)], markersize=5.5,
                markeredgecolor=SURFACE, markeredgewidth=0.7, label=line.title,
            )  # fmt: skip
        _layer_axis(axis, layers)
        axis.set_xlim(-0.5, len(layers) - 0.5)
        axis.set_ylabel(f"AIE, {unit}")
        axis.yaxis.grid(True)
        axis.set_title(entry.site, loc="left", parse_math=False)
        if drawn:
            figure.legend(loc="outside lower left", ncols=2, handletextpad=0.4, columnspacing=1.2)
        meaning = "average indirect effect by layer and kind of token with intervals; the table below holds the numbers"
        return to_svg(figure, name, f"{entry.site}: {meaning}")


def bin_map(name: str, entry: TracedSite, layers: Sequence[int], unit: str) -> str:
    """The same effects as colours around zero: layers across, kinds of token down."""
    from matplotlib.colors import CenteredNorm

    grid = np.array([[np.nan if e.mean is None else e.mean for e in line.effects] for line in entry.bins], dtype=float)
    known = np.abs(grid[np.isfinite(grid)])
    with style(name):
        figure, axis = canvas(4.6, 1.1 + 0.3 * len(grid))
        norm = CenteredNorm(0.0, float(known.max(initial=0.0)) or 1.0)
        image = axis.imshow(grid, aspect="auto", interpolation="nearest", cmap="PuOr_r", norm=norm)
        axis.set_yticks(range(len(grid)), [line.title for line in entry.bins])
        _layer_axis(axis, layers)
        axis.tick_params(length=0)
        bar = figure.colorbar(image, ax=axis, pad=0.02)
        bar.set_label(f"AIE, {unit}")
        bar.outline.set_visible(False)  # type: ignore[operator]
        axis.set_title(entry.site, loc="left", parse_math=False)
        return to_svg(figure, name, f"{entry.site}: average indirect effect as colours, by layer and kind of token")


def _layer_axis(axis: Any, layers: Sequence[int]) -> None:
    every = -(-len(layers) // 12)
    shown = range(0, len(layers), every)
    axis.set_xticks(shown, [str(layers[i]) for i in shown])
    axis.set_xlabel("layer")
