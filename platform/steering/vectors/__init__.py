"""Steering vectors: a direction for each layer that separates two sets of texts, and how well it does on others.

    contrast = read_pairs("pairs.jsonl")                      # or of_columns(...), of_facts(...)
    vectors = fit_vectors(model, contrast, method="difference_of_means", site="resid_post")
    vectors.save("runs/vectors.json");  again = Vectors.load("runs/vectors.json", model)
    part = again.part(2, 1.5)                                 # 1.5 times the RMS of the site, along the direction

A direction that separates held-out texts need not do anything when it is added: detection is not execution. Whether it
does is for an evaluation to say, on texts that were not used here (`Vectors.decided_on` names those that were).

A method is one file with `@vector_method(name)` (`method`).
"""

from __future__ import annotations

from .contrast import Contrast, Text
from .contrast_sources import of_answers, of_columns, of_facts, read_pairs
from .fitting import fit_vectors
from .method import Labelled, find_vector_method, vector_method, vector_method_names
from .separability import auroc
from .vectors import Vectors

__all__ = [
    "Contrast", "Labelled", "Text", "Vectors", "auroc", "find_vector_method", "fit_vectors", "of_answers", "of_columns",
    "of_facts", "read_pairs", "vector_method", "vector_method_names",
]  # fmt: skip
