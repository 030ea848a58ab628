"""Answer metrics, exactly as the official evaluators define them.

`score(name, prediction, gold)` judges one prediction, `evaluate(name, predictions, references)` a whole file in the
official schema. Pure Python without I/O. Variants of other harnesses never share a name with an official metric.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ...errors import UsageError
from .registry import Metric, Score, find, metric, names

__all__ = ["Metric", "Score", "evaluate", "metric", "names", "score"]


def score(name: str, prediction: str, gold: Any, **kw: Any) -> Score:
    """Judge one prediction: `score("squad_v1", "in 1066", ["1066"]).f1`.

    `gold` is what the data set holds (see the metric's class); `kw` are the metric's own keyword arguments.
    """
    chosen = find(name)
    if kw:  # checked only when given: this function is called once for every answer of an evaluation
        known = [p.name for p in inspect.signature(chosen.score).parameters.values() if p.kind is p.KEYWORD_ONLY]
        unknown = sorted(set(kw) - set(known))
        if unknown:
            raise UsageError(f"metric {name!r} has no argument {unknown[0]!r}; it has: {', '.join(known) or 'none'}")
    return chosen.score(prediction, gold, **kw)


def evaluate(name: str, predictions: Mapping[str, Any], references: Any) -> dict[str, float]:
    """The official corpus result of metric `name`: official schema in, official keys and units out."""
    return find(name).evaluate(predictions, references)
