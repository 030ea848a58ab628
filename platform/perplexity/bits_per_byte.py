"""How well a model predicts whole documents, out of their log-likelihoods: perplexities and bits per byte.

    bits_per_byte   = -sum(log-likelihood) / (sum(bytes) ln 2)       bytes of the UTF-8 text
    byte_perplexity = exp(-sum(log-likelihood) / sum(bytes))
    word_perplexity = exp(-sum(log-likelihood) / sum(words))         words: pieces between runs of white space

Sums are over the documents of a group, so that long documents weigh more. What was read in the rolling windows of
lm-evaluation-harness goes under the harness's names `pile_*`.
"""

from __future__ import annotations

import math
import re

PREFIX_OF_NAMES: dict[str, str] = {"carried": "", "harness": "pile_"}


def count_words(text: str) -> int:
    """Pieces of `text` between runs of white space, empty ones at either end included, as the harness counts them."""
    return len(re.split(r"\s+", text))


def bits_per_byte(log_likelihood: float, n_bytes: int) -> float:
    """Bits that a byte of the text costs; log_likelihood in nats."""
    return -log_likelihood / (n_bytes * math.log(2))


def perplexity(log_likelihood: float, units: int) -> float | None:
    """exp of the mean negative log-likelihood of a unit; None where that is no finite float."""
    mean = -log_likelihood / units
    return math.exp(mean) if mean < 700 else None
