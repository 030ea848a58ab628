"""The loss curve of a run as a PNG, drawn from its metrics log.

Loss and answer loss against the step on the left axis, evaluation scores on the right one. Lines show a running mean
over 1 % of the run, the values themselves lie behind them. Draws what the log holds and computes nothing else.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..core.whole_files import publish_bytes
from .log import read_log


def draw_loss_curve(log: Path, png: Path, title: str) -> None:
    """Write `png` from the metrics log. The bytes depend on the log, the title and the version of matplotlib only."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_log(log)
    train = [line for line in lines if line["kind"] == "train"]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for name, colour in (("loss", "tab:blue"), ("answer_loss", "tab:orange")):
        steps, values = _series(train, name)
        if len(steps):
            axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(steps, _running_mean(values), color=colour, label=name.replace("_", " "))
    axis.set_xlabel("step")
    axis.set_ylabel("loss (nats per token)")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    steps, values = _series(evaluations, "exact_match")
    if len(steps):
        right = axis.twinx()
        right.plot(steps, values, "o-", color="tab:green", markersize=3)
        right.set_ylabel("exact match, held-out questions", color="tab:green")
        right.set_ylim(0, 1)
    steps, values = _series(evaluations, "loss")
    if len(steps):
        axis.plot(steps, values, "o-", color="tab:red", markersize=3, label="held-out loss")
    if axis.lines:
        axis.legend(loc="upper right")
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    publish_bytes(picture.getvalue(), png)


def _series(lines: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs], dtype=float)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the last 1 % of the values up to each one."""
    width = max(1, len(values) // 100)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    index = np.arange(1, len(values) + 1)
    start = np.maximum(index - width, 0)
    return (sums[index] - sums[start]) / (index - start)
