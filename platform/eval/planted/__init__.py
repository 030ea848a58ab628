"""The planted benchmark: models with a known damage, for asking whether an instrument finds it and mends it."""

from __future__ import annotations

from .catalogue import PLANTS, find_plant
from .forced import ForcedBatch, exact_matches, forced_batches
from .plant import KINDS, Plant, Planted

__all__ = ["KINDS", "PLANTS", "ForcedBatch", "Plant", "Planted", "exact_matches", "find_plant", "forced_batches"]
