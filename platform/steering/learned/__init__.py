"""Learning to steer from a few examples: the state that texts begin with, and what it is compared with.

    learned = learn_state(model, examples, development, steps=120, lr=0.01, seed=0)
    with model.edit(*learned.recipe.edits(model)):
        model.generate(["..."])

The baselines have about as many numbers, the same examples, the same loss and the same number of steps: low-rank
changes of the projections (`learn_lora`) and vectors read before the text (`learn_prefix`). Controls: examples with
their answers exchanged (`shuffled`), and random states of equal norm (`random_states`).
"""

from __future__ import annotations

from .choosing import Chosen, choose
from .descent import Descent
from .examples import Example, Rows, rows_of, shuffled
from .learned_state import LearnedState, learn_state, random_states
from .lora import Lora, learn_lora, rank_for
from .scoring import Scored, score
from .soft_prefix import SoftPrefix, learn_prefix

__all__ = [
    "Chosen", "Descent", "Example", "LearnedState", "Lora", "Rows", "Scored", "SoftPrefix", "choose", "learn_lora",
    "learn_prefix", "learn_state", "random_states", "rank_for", "rows_of", "score", "shuffled",
]  # fmt: skip
