"""Answer metrics, exactly as the official evaluators define them.

`score(name, prediction, gold)` judges one prediction, `evaluate(name, predictions, references)` a whole file in the
official schema. Nothing here does I/O. The variants of lm-evaluation-harness are named `lm_eval_...` and never share a
name with an official metric.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ...core.errors import UsageError, suggest
from .metric import Example, Metric, Score, find, metric, names, scores_unanswerable

__all__ = ["Example", "Metric", "Score", "evaluate", "metric", "names", "score", "scores_unanswerable"]


def score(name: str, prediction: Any, gold: Any, **kw: Any) -> Score:
    """Judge one prediction: `score("squad_v1", "in 1066", ["1066"]).f1`.

    `gold` is what the data set holds (see the metric's class); `kw` are the metric's own keyword arguments.
    Raises UsageError for an unknown name or argument, InputError for a prediction or gold that cannot be judged.
    """
    chosen = find(name)
    if kw:  # checked only when given: this function is called once for every answer of an evaluation
        _check_arguments(f"metric {name!r}", chosen.score, kw)
    return chosen.score(prediction, gold, **kw)


def evaluate(name: str, predictions: Any, references: Any, **kw: Any) -> dict[str, float]:
    """The official corpus result of metric `name`: official schema in, official keys and units out.

    Raises UsageError for an unknown name or argument, InputError for files that are not in the official schema.
    """
    chosen = find(name)
    _check_arguments(f"the corpus result of {name!r}", chosen.evaluate, kw)
    return chosen.evaluate(predictions, references, **kw)


def _check_arguments(what: str, method: Callable[..., Any], kw: dict[str, Any]) -> None:
    known = [p.name for p in inspect.signature(method).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(set(kw) - set(known))
    if unknown:
        has = suggest(unknown[0], known) if known else "it has none"
        raise UsageError(f"{what} has no argument {unknown[0]!r}; {has}")
