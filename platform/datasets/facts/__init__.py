"""The facts world: invented people, places and things, stated in a few sentences and asked about.

Public: `prompts` (evaluation questions of six levels, their controls, distance sweeps and few-shot headers),
`training_text`, `training_batch` and `Difficulty` (training).
"""

from .controls import control_names
from .distances import MAX_DISTANCE, UNITS
from .examples import MAX_SHOTS
from .prompts import LEVELS, distinct_questions, prompts
from .training import Difficulty, TrainingBatch, TrainingText, training_batch, training_text

__all__ = [
    "LEVELS",
    "MAX_DISTANCE",
    "MAX_SHOTS",
    "UNITS",
    "Difficulty",
    "TrainingBatch",
    "TrainingText",
    "control_names",
    "distinct_questions",
    "prompts",
    "training_batch",
    "training_text",
]
