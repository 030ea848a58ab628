"""The planted benchmark: models with a known damage, for asking whether an instrument finds it and mends it.

    from mplat.eval.planted import PLANTS, benchmark, detect, score

`score` judges any function (model, development questions) -> recipe; `detect` asks the detectors; `benchmark` does both
for all plants.
"""

from __future__ import annotations

from .benchmark import Benchmark, benchmark, discovered, left_alone
from .catalogue import PLANTS, find_plant
from .detecting import EXPECTED, Detection, detect
from .forced import ForcedBatch, exact_matches, forced_batches
from .judging import Case, Search, score
from .plant import KINDS, Plant, Planted

__all__ = [
    "EXPECTED", "KINDS", "PLANTS", "Benchmark", "Case", "Detection", "ForcedBatch", "Plant", "Planted", "Search",
    "benchmark", "detect", "discovered", "exact_matches", "find_plant", "forced_batches", "left_alone", "score",
]  # fmt: skip
