"""The log-likelihoods of texts, each with what became of it: for every stage that reads whole texts with a model.

Promises: what goes wrong with one text becomes its status, and its neighbours are read. What is wrong with all alike is
an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from ...core.errors import InputError, UsageError
from .likelihoods import Method, log_likelihoods
from .text import added_before, encode_text

if TYPE_CHECKING:
    from ..model import LanguageModel


class ScoredText(NamedTuple):
    """What a model makes of a text. log_likelihood: nats, summed over all tokens; None unless the status is `ok`."""

    n_tokens: int | None
    log_likelihood: float | None
    status: str  # ok, bad_input, model_nonfinite, scorer_error
    reason: str | None


def first_token(model: LanguageModel) -> int:
    """The token that the first token of a document is predicted from: the one that the tokenizer puts before a text,
    else its token for the beginning of one, else for its end.

    Raises InputError for a model without a tokenizer, or with one that has neither.
    """
    if model.tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the texts; name one with --tokenizer")
    if added := added_before(model.tokenizer):
        return added[-1]
    begin, end = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    if begin is None and end is None:
        raise InputError(f"the tokenizer of {model.name} has no token that begins or ends a text, none to start from")
    return begin if begin is not None else end  # type: ignore[return-value]


def score_texts(model: LanguageModel, texts: Sequence[str], *, method: Method, window: int) -> list[ScoredText]:
    """Each of `texts`, read as one batch; errors as of `first_token`."""
    start = first_token(model)
    tokens = [_tokens(model, text) for text in texts]
    found = iter(_read(model, [ids for ids in tokens if ids], start, method, window))
    return [_scored(ids, next(found)) if ids else _EMPTY for ids in tokens]


_EMPTY = ScoredText(None, None, "bad_input", "the tokenizer makes no token of the text")


def _tokens(model: LanguageModel, text: str) -> list[int]:
    assert model.tokenizer is not None
    encoded = encode_text(model.tokenizer, text)
    return list(encoded.ids[encoded.added :])


def _read(
    model: LanguageModel, documents: list[list[int]], start: int, method: Method, window: int
) -> list[float | Exception]:
    try:
        return list(log_likelihoods(model, documents, start, method=method, window=window))
    except (UsageError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if len(documents) == 1:
            return [error]
        return [_read(model, [document], start, method, window)[0] for document in documents]


def _scored(tokens: list[int], found: float | Exception) -> ScoredText:
    if isinstance(found, Exception):
        status = "bad_input" if isinstance(found, InputError) else "scorer_error"
        return ScoredText(len(tokens), None, status, f"{type(found).__name__}: {found}")
    if not math.isfinite(found):
        return ScoredText(len(tokens), None, "model_nonfinite", "the log-likelihood was not finite")
    return ScoredText(len(tokens), found, "ok", None)
