"""From characters to tokens: a prompt's tokens, which of them are the subject's, and the answer's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...core.errors import InputError
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
    """The prompt in the tokens of `tokenizer`, with what it puts before a text.

    The answer's tokens are those that follow the prompt's in the text prompt + " " + answer. Raises UsageError for a
    tokenizer that cannot say where its tokens stand, InputError where it gives the subject no token, or joins the end
    of the prompt with the answer, so that none of its tokens is the answer's first.
    """
    from ...models.decoding.text import encode_text

    encoded = encode_text(tokenizer, prompt.prompt)
    subject = encoded.tokens_of(*prompt.subject_span)
    if subject[0] == subject[1]:
        raise InputError(f"{prompt.dataset} {prompt.id}: the tokenizer has no token for the subject {prompt.subject!r}")
    answers = [
        _continuation(prompt, encoded.ids, text, tokenizer) for text in (prompt.answer, prompt.other_answer) if text
    ]
    return LocatedPrompt(encoded.ids, subject, *answers)


def _continuation(
    prompt: FactualPrompt, tokens: tuple[int, ...], text: str, tokenizer: PreTrainedTokenizerFast
) -> tuple[int, ...]:
    from ...models.decoding.text import encode_continued

    where = f"{prompt.dataset} {prompt.id}"
    try:
        whole = encode_continued(tokenizer, prompt.prompt, f" {text}")
    except InputError as error:
        raise InputError(f"{where}: {error}; leave this prompt out") from None
    if whole.prompt != tokens:
        raise InputError(
            f"{where}: the tokenizer joins the end of the prompt with the answer {text!r}; leave this prompt out"
        )
    return whole.continuation
