"""The facts world: invented people, places and things, stated in a few sentences and asked about.

Public: `prompts` (evaluation questions of six levels), `training_text`, `training_batch` and `Difficulty` (training).
"""

from .prompts import LEVELS, distinct_questions, prompts
from .training import Difficulty, TrainingBatch, TrainingText, training_batch, training_text

__all__ = [
    "LEVELS",
    "Difficulty",
    "TrainingBatch",
    "TrainingText",
    "distinct_questions",
    "prompts",
    "training_batch",
    "training_text",
]
