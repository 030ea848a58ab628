"""The answer metrics under their public name, `mplat.eval.metrics`; they are in `scoring.metrics`."""

from __future__ import annotations

import sys
from importlib import import_module
from pkgutil import iter_modules

from ...scoring import metrics as _metrics
from ...scoring.metrics import Metric, Score, evaluate, metric, names, score, scores_unanswerable

__all__ = ["Metric", "Score", "evaluate", "metric", "names", "score", "scores_unanswerable"]

for _file in iter_modules(_metrics.__path__):
    _module = sys.modules[f"{__name__}.{_file.name}"] = import_module(f"{_metrics.__name__}.{_file.name}")
    if _file.name not in __all__:
        globals()[_file.name] = _module
