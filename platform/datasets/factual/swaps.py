"""Symmetric corruption: every prompt with another subject whose tokens are as many.

Noise on embeddings leaves the distribution that a model was trained on; another subject does not (Zhang and Nanda,
arXiv 2309.16042).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...core.errors import InputError
from .records import FactualPrompt
from .spans import LocatedPrompt, locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def swap_subjects(prompts: Sequence[FactualPrompt], tokenizer: PreTrainedTokenizerFast) -> list[LocatedPrompt | None]:
    """For each prompt the same one about the subject of a later prompt (after the last comes the first).

    The nearest one will do that has the same relation, another subject and another answer, and whose subject makes a
    prompt that differs in the subject's tokens alone. None where there is no such prompt.
    """
    found: list[LocatedPrompt | None] = []
    for i, prompt in enumerate(prompts):
        here = locate(prompt, tokenizer)
        candidates = (other for other in (*prompts[i + 1 :], *prompts[:i]) if _differs(prompt, other))
        swapped = (_swapped(prompt, here, other.subject, tokenizer) for other in candidates)
        found.append(next((one for one in swapped if one is not None), None))
    return found


def _differs(prompt: FactualPrompt, other: FactualPrompt) -> bool:
    return prompt.relation == other.relation and prompt.subject != other.subject and prompt.answer != other.answer


def _swapped(
    prompt: FactualPrompt, here: LocatedPrompt, subject: str, tokenizer: PreTrainedTokenizerFast
) -> LocatedPrompt | None:
    try:
        there = locate(prompt.with_subject(subject), tokenizer)
    except InputError:  # this subject does not stand in tokens of its own: another one may
        return None
    start, stop = here.subject
    same = there.subject == here.subject and there.tokens[:start] == here.tokens[:start]
    return there if same and there.tokens[stop:] == here.tokens[stop:] else None
