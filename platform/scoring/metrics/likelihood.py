"""What lm-evaluation-harness makes of log-likelihoods: its lambada_openai and its pile_* tasks.

These judge probabilities and not answers, so they are plain functions beside the registered metrics. Log-likelihoods
are in nats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ...core.errors import InputError


def lambada_split(text: str) -> tuple[str, str]:
    """(context, target with its space): the last word by single spaces is to be predicted. InputError without one."""
    context, space, word = text.rpartition(" ")
    if not space or not word:
        raise InputError(f"a LAMBADA text ends with a space and a word, and this one does not: {text[-40:]!r}")
    return context, space + word


def lambada(loglikelihoods: Sequence[float], greedy: Sequence[bool]) -> dict[str, float]:
    """acc: share of targets that greedy decoding gives; perplexity: exp of minus the mean log-likelihood of a target.

    One value a text: the log-likelihood of its whole target, and whether every token of it is the most probable one.
    Raises InputError where they differ in number or there is none.
    """
    if not loglikelihoods or len(loglikelihoods) != len(greedy):
        raise InputError(
            f"LAMBADA needs as many log-likelihoods as greedy flags, at least one: {len(loglikelihoods)}, {len(greedy)}"
        )
    return {
        "perplexity": math.exp(-sum(loglikelihoods) / len(loglikelihoods)),
        "acc": sum(map(bool, greedy)) / len(greedy),
    }


def rolling(loglikelihoods: Sequence[float], documents: Sequence[str]) -> dict[str, float]:
    """word_perplexity, byte_perplexity and bits_per_byte over whole documents.

    loglikelihoods: that of each whole document. Bytes are those of UTF-8; words are the harness's: what stands between
    runs of whitespace, the empty text before or behind one at either end included. Raises InputError where the two
    differ in number or there is no text.
    """
    if not documents or len(loglikelihoods) != len(documents):
        raise InputError(
            f"as many log-likelihoods as documents are needed, at least one: {len(loglikelihoods)}, {len(documents)}"
        )
    total = sum(loglikelihoods)
    words = sum(len(re.split(r"\s+", document)) for document in documents)
    n_bytes = sum(len(document.encode("utf-8")) for document in documents)
    if n_bytes == 0:
        raise InputError("the documents are empty")
    return {
        "word_perplexity": math.exp(-total / words),
        "byte_perplexity": math.exp(-total / n_bytes),
        "bits_per_byte": -total / (n_bytes * math.log(2)),
    }
