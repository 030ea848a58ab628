"""The answer metrics under their public name, `mplat.eval.metrics`; they are in `scoring.metrics`."""

from __future__ import annotations

import sys

from ...scoring.metrics import Metric, Score, evaluate, metric, names, score, scores_unanswerable
from ...scoring.metrics.metric import METRICS

__all__ = ["Metric", "Score", "evaluate", "metric", "names", "score", "scores_unanswerable"]

METRICS.all()
_WHERE = f"{evaluate.__module__}."
for _module in [name for name in sys.modules if name.startswith(_WHERE)]:
    _name = _module.removeprefix(_WHERE)
    globals()[_name] = sys.modules[f"{__name__}.{_name}"] = sys.modules[_module]
