"""What becomes of every document: trained on, held out, or left out because it is there twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .split import held_out
from .token_corpus import Corpus

COPY, EXACT, NEAR, IN_TRAINING = "held_out_copies", "held_out_exact", "held_out_near", "training_copies"


@dataclass(frozen=True)
class Division:
    """training: numbers of documents in corpus order. held_out: numbers by set, then by hash, every text once.

    left_out counts the documents that are in neither: `held_out_copies` (of a held-out text), `held_out_exact` and
    `held_out_near` (training has the text, or most of it), `training_copies` (of a text trained on; where asked for).
    """

    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    left_out: Mapping[str, int]
    training_copies: int  # documents trained on whose text comes before


def divide(corpus: Corpus, *, share: float, most_tokens: int, deduplicate: bool) -> Division:
    """By hashes alone, without a look at the tokens; `share` and `most_tokens` as in `held_out`."""
    documents = corpus.documents
    chosen = held_out(documents, share, most_tokens)
    training, held = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    held = held[np.lexsort((documents.hash[held], documents.set[held]))]  # stable: the first of copies comes first
    once = _first_ones(documents.hash[held])
    held, copies = held[once], int((~once).sum())
    known = np.isin(documents.hash[held], documents.hash[training])
    first = _first_ones(documents.hash[training])
    repeated = int((~first).sum())
    if deduplicate:
        training = training[first]
    left_out = {COPY: copies, EXACT: int(known.sum()), NEAR: 0, IN_TRAINING: repeated if deduplicate else 0}
    return Division(training, held[~known], left_out, 0 if deduplicate else repeated)


def without_near(division: Division, near: NDArray[np.bool_]) -> Division:
    """The held-out documents (H,) that are not `near` (H,) to one in training."""
    left_out = {**division.left_out, NEAR: int(near.sum())}
    return replace(division, held_out=division.held_out[~near], left_out=left_out)


def _first_ones(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(n,) whether the hash did not come before."""
    first = np.zeros(len(hashes), dtype=bool)
    first[np.unique(hashes, return_index=True)[1]] = True
    return first
