"""Factual prompts: a sentence that breaks off before the object of a fact, with the place of its subject.

facts = read_factual("known_1000", "data/known_1000").prompts
made = facts_world_prompts(200, seed=0)            # for the tiny models: the fact is stated in the prompt
tokens, subject, answer = locate(facts[0], model.tokenizer)

Public: `read_factual`, `names`, `FactualPrompt`, `facts_world_prompts`, `locate`, `swap_subjects`.
"""

from .facts_world import facts_world_prompts
from .factual_set import names
from .reading import FactualReading, read_factual
from .records import FactualPrompt
from .spans import LocatedPrompt, locate
from .swaps import swap_subjects

__all__ = [
    "FactualPrompt", "FactualReading", "LocatedPrompt", "facts_world_prompts", "locate", "names", "read_factual",
    "swap_subjects",
]  # fmt: skip
