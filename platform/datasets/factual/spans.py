"""From characters to tokens: a prompt's tokens, which of them are the subject's, and the answer's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...errors import InputError, UsageError
from .records import FactualPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class LocatedPrompt(NamedTuple):
    """tokens of the prompt; subject: (start, stop), the tokens that hold any character of it; answer: its tokens.

    other_answer: tokens of `FactualPrompt.other_answer`, or None.
    """

    tokens: tuple[int, ...]
    subject: tuple[int, int]
    answer: tuple[int, ...]
    other_answer: tuple[int, ...] | None = None


def locate(prompt: FactualPrompt, tokenizer: PreTrainedTokenizerFast) -> LocatedPrompt:
    """The prompt in the tokens of `tokenizer`, which adds nothing of its own.

    The answer's tokens are those that follow the prompt's in the text prompt + " " + answer. Raises UsageError for a
    tokenizer that cannot say where its tokens stand, InputError where it gives the subject no token, or joins the end
    of the prompt with the answer, so that none of its tokens is the answer's first.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"{type(tokenizer).__name__} cannot say where its tokens stand; use a fast tokenizer")
    encoded = tokenizer(prompt.prompt, add_special_tokens=False, return_offsets_mapping=True)
    tokens = tuple(int(t) for t in encoded["input_ids"])
    start, end = prompt.subject_span
    inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start]
    if not inside:
        raise InputError(f"{prompt.dataset} {prompt.id}: the tokenizer has no token for the subject {prompt.subject!r}")
    answers = [_continuation(prompt, tokens, text, tokenizer) for text in (prompt.answer, prompt.other_answer) if text]
    return LocatedPrompt(tokens, (inside[0], inside[-1] + 1), *answers)


def _continuation(
    prompt: FactualPrompt, tokens: tuple[int, ...], text: str, tokenizer: PreTrainedTokenizerFast
) -> tuple[int, ...]:
    whole = tuple(tokenizer(f"{prompt.prompt} {text}", add_special_tokens=False)["input_ids"])
    if whole[: len(tokens)] != tokens or len(whole) == len(tokens):
        raise InputError(
            f"{prompt.dataset} {prompt.id}: the tokenizer joins the end of the prompt with the answer {text!r}; "
            "leave this prompt out"
        )
    return whole[len(tokens) :]
