"""What a report takes from the metrics log of a training run: curves, held-out sets, spikes, skipped steps, samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..content import Sample, Series, Spike, Training
from ..documents import Document
from ..section import section

_MOST_POINTS = 400  # of a curve: more cannot be seen
_STRETCHES = 100  # of which a mean is shown
_BEFORE = 50  # losses that say what is usual
_FEWEST_BEFORE = 20
_DEVIATIONS = 8  # from the median, in standard deviations as the median absolute deviation tells them
_LEAST = 0.05  # of the median
_SET = "bits_per_byte/"


@section("train")
def read_training_run(folder: Path, run: Document) -> Training:
    """The log of the run in `folder`."""
    return read_training(folder / "log.jsonl", folder.name)


def read_training(log: Path, model: str) -> Training:
    """The metrics log of a training run, thinned out to what can be seen. Raises InputError where it cannot be read."""
    from ...train.log import read_log

    lines = read_log(log)
    train = [line for line in lines if line.get("kind") == "train"]
    evaluations = [line for line in lines if line.get("kind") == "eval"]
    losses = _series(train, "loss")
    sets = sorted({name for line in evaluations for name in line if name.startswith(_SET)})
    return Training(
        source=str(log),
        model=model,
        loss=_thinned(losses),
        held_out=_thinned(_series(evaluations, "loss")),
        exact_match=_thinned(_series(evaluations, "exact_match")),
        mean_loss=_means(losses),
        bits_per_byte=_thinned(_series(evaluations, "bits_per_byte")),
        sets=tuple((name.removeprefix(_SET), _thinned(_series(evaluations, name))) for name in sets),
        spikes=tuple(spikes(losses)),
        skipped=tuple(line["step"] for line in train if line.get("skipped")),
        steps=train[-1]["step"] if train else 0,
        tokens_per_step=train[-1]["tokens"] / train[-1]["step"] if train and _has_tokens(train[-1]) else None,
        samples=tuple(
            Sample(*(line[name] for name in Sample._fields))
            for line in lines
            if line.get("kind") == "sample" and line.keys() >= {*Sample._fields}
        ),
    )


def _has_tokens(line: dict[str, Any]) -> bool:
    return bool(line.get("tokens")) and line["step"] > 0


def spikes(losses: Sequence[tuple[float, float]]) -> list[Spike]:
    """Losses that are far above the median of the 50 before them; of neighbours the highest.

    Far is eight standard deviations, as the median absolute deviation of those 50 tells them, and 5 % of the median.
    """
    steps, values = np.array([s for s, _ in losses]), np.array([v for _, v in losses], dtype=float)
    if len(values) <= _FEWEST_BEFORE:
        return []
    padded = np.concatenate([np.full(_BEFORE, np.nan), values[:-1]])
    before = np.lib.stride_tricks.sliding_window_view(padded, _BEFORE)[_FEWEST_BEFORE:]
    usual = np.nanmedian(before, axis=1)
    spread = 1.4826 * np.nanmedian(np.abs(before - usual[:, None]), axis=1)
    excess = values[_FEWEST_BEFORE:] - usual
    high = np.flatnonzero(excess > np.maximum(_DEVIATIONS * spread, _LEAST * np.abs(usual)))
    groups = np.split(high, np.flatnonzero(np.diff(high) > 1) + 1) if len(high) else []
    tops = [int(group[np.argmax(excess[group])]) for group in groups]
    return [
        Spike(int(steps[top + _FEWEST_BEFORE]), float(values[top + _FEWEST_BEFORE]), float(usual[top])) for top in tops
    ]


def _series(lines: Sequence[dict[str, Any]], name: str) -> Series:
    return tuple((float(line["step"]), float(line[name])) for line in lines if line.get(name) is not None)


def _thinned(series: Series) -> Series:
    return series[:: -(-len(series) // _MOST_POINTS)] if series else ()


def _means(series: Series) -> Series:
    """Means of equal stretches, each at its last step."""
    width = max(1, -(-len(series) // _STRETCHES))
    parts = [series[i : i + width] for i in range(0, len(series), width)]
    return tuple((part[-1][0], sum(v for _, v in part) / len(part)) for part in parts)
