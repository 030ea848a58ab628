"""Factual prompts as token ids: where the subject's tokens are, and which token is the answer.

The subject is a span of characters; its tokens are those that overlap it, so a blank that belongs to the first token
does not matter. The answer is the first token of the target, as it follows the prompt: behind a blank, unless prompt
or target has one. What cannot be used is left out with a status and a reason, never silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import InputError

if TYPE_CHECKING:
    from ...models import LanguageModel


class Prompt(NamedTuple):
    """A text with a subject. span: its characters (start, stop); target: what should follow, None where open.
    relation: prompts of one relation exchange subjects first; "" where there is none."""

    id: str
    text: str
    span: tuple[int, int]
    target: str | None = None
    relation: str = ""


@dataclass(frozen=True)
class Item:
    """A prompt as a worker gets it. subject: token positions (start, stop). corrupted: the prompt with another
    subject, of equal length; None: noise. answer: a token id; None: what the model finds most probable."""

    id: str
    tokens: tuple[int, ...]
    subject: tuple[int, int]
    answer: int | None
    corrupted: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as the runtime sends it."""
        corrupted = None if self.corrupted is None else list(self.corrupted)
        return {"id": self.id, "tokens": list(self.tokens), "subject": list(self.subject), "answer": self.answer,
                "corrupted": corrupted}  # fmt: skip


class Excluded(NamedTuple):
    """A prompt that is not traced, and why; `status` is one of `trace_schema.STATUSES`."""

    id: str
    status: str
    reason: str


class Encoded(NamedTuple):
    """Token ids of a text, with the characters (start, stop) of each."""

    tokens: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def covering(self, span: tuple[int, int]) -> tuple[int, int] | None:
        """Token positions (start, stop) of the tokens that overlap a span of characters; None of none."""
        inside = [i for i, (start, stop) in enumerate(self.offsets) if start < min(stop, span[1]) and stop > span[0]]
        return (inside[0], inside[-1] + 1) if inside else None


def encode_text(model: LanguageModel, text: str) -> Encoded:
    """The tokens of `text`. Raises InputError for a model whose tokenizer cannot say which characters they are."""
    tokenizer = model.tokenizer
    if tokenizer is None or not tokenizer.is_fast:
        raise InputError(
            f"model {model.name} has no tokenizer that maps words to tokens; add tokenizer.json to its folder, or call "
            "mplat.interp.tracing.causal_trace with token ids"
        )
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return Encoded(tuple(found["input_ids"]), tuple((int(a), int(b)) for a, b in found["offset_mapping"]))  # type: ignore[misc]


def answer_text(prompt: str, target: str) -> str:
    """The target as it follows the prompt."""
    words = target.strip()
    return words if prompt[-1:].isspace() else f" {words}"


def to_item(model: LanguageModel, prompt: Prompt, *, max_tokens: int) -> Item | Excluded:
    """The prompt in tokens, or why it cannot be traced."""
    encoded = encode_text(model, prompt.text)
    if not encoded.tokens:
        return Excluded(prompt.id, "bad_input", "the prompt is empty")
    if len(encoded.tokens) > max_tokens:
        return Excluded(prompt.id, "too_long", f"{len(encoded.tokens)} tokens, more than max_tokens {max_tokens}")
    if (highest := max(encoded.tokens)) >= model.config.vocab_size:
        return Excluded(prompt.id, "bad_input", f"token {highest} is outside of the model's vocabulary")
    subject = encoded.covering(prompt.span)
    if subject is None:
        return Excluded(prompt.id, "no_subject", f"no token of the prompt lies in characters {prompt.span}")
    answer: int | None = None
    if prompt.target is not None:
        if not prompt.target.strip():
            return Excluded(prompt.id, "bad_input", "the target is empty")
        answer = encode_text(model, answer_text(prompt.text, prompt.target)).tokens[0]
        if answer >= model.config.vocab_size:
            return Excluded(prompt.id, "bad_input", f"the answer's token {answer} is outside of the vocabulary")
    return Item(prompt.id, encoded.tokens, subject, answer)


def to_items(
    model: LanguageModel, prompts: Sequence[Prompt], *, max_tokens: int
) -> tuple[list[Item], list[Excluded]]:
    """`to_item` of each, in order. Raises InputError for an id that occurs twice."""
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise InputError(f"the prompt id {prompt.id!r} occurs more than once; ids must be unique")
        seen.add(prompt.id)
    found = [to_item(model, prompt, max_tokens=max_tokens) for prompt in prompts]
    return [f for f in found if isinstance(f, Item)], [f for f in found if isinstance(f, Excluded)]
