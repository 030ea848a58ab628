"""Prompts as token ids: where the subject's tokens are, and which token is the answer.

The answer is judged by its first token, as it follows the prompt. What cannot be used is left out with a status and a
reason, never silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ...core.errors import InputError, UsageError
from ...datasets.factual import FactualPrompt, locate, swap_subjects
from ...models.decoding.text import encode_continued, encode_text

if TYPE_CHECKING:
    from ...models import LanguageModel


@dataclass(frozen=True)
class Item:
    """A prompt as a worker gets it. subject: token positions (start, stop). answer: the first token of what should
    follow; None: open. corrupted: the prompt with another subject, of equal length; None: noise."""

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


def fact_items(
    model: LanguageModel, prompts: Sequence[FactualPrompt], *, max_tokens: int, swapped: bool
) -> tuple[list[Item], list[Excluded]]:
    """Factual prompts in tokens, in order, and those that cannot be traced.

    swapped: each gets as its corrupted version the same prompt about another one's subject (`swap_subjects`).
    Raises InputError for an id that occurs twice, and for a model whose tokenizer cannot say where its tokens stand.
    """
    tokenizer = _tokenizer(model)
    seen: set[str] = set()
    items: list[Item] = []
    excluded: list[Excluded] = []
    usable: list[FactualPrompt] = []
    for prompt in prompts:
        if prompt.id in seen:
            raise InputError(f"the prompt id {prompt.id!r} occurs more than once; ids must be unique")
        seen.add(prompt.id)
        try:
            found = locate(prompt, tokenizer)
        except InputError as error:
            excluded.append(Excluded(prompt.id, "no_place", str(error)))
            continue
        item = Item(prompt.id, found.tokens, found.subject, found.answer[0])
        if (problem := _problem(model, item, max_tokens)) is not None:
            excluded.append(problem)
        else:
            items.append(item)
            usable.append(prompt)
    if not swapped:
        return items, excluded
    found_items: list[Item] = []
    for item, other in zip(items, swap_subjects(usable, tokenizer), strict=True):
        if other is None:
            reason = "no prompt of the same relation has a subject of as many tokens and another answer"
            excluded.append(Excluded(item.id, "no_replacement", reason))
        else:
            found_items.append(replace(item, corrupted=other.tokens))
    return found_items, excluded


def open_item(
    model: LanguageModel, name: str, text: str, subject: str, *, answer: str | None, replacement: str | None
) -> Item:
    """One prompt with the first occurrence of `subject` in it, and with `replacement` in its place where given.

    Raises UsageError for a subject that is not in the text, an answer without a token of its own behind the text, and a
    replacement of another number of tokens; InputError as `fact_items`.
    """
    start = text.find(subject)
    if start < 0 or not subject.strip():
        raise UsageError(f"--subject {subject!r} does not occur in --prompt {text!r}")
    encoded = encode_text(_tokenizer(model), text)
    place = encoded.tokens_of(start, start + len(subject))
    if place[0] == place[1]:
        raise UsageError(f"--subject {subject!r}: the tokenizer of {model.name} has no token for it; choose more words")
    first: int | None = None
    if answer is not None:
        if not answer.strip():
            raise UsageError("--answer is empty; leave it out to trace what the model finds most probable")
        first = _first_of(model, text, encoded.ids, answer.strip())
    item = Item(name, encoded.ids, place, first)
    if replacement is None:
        return item
    other = encode_text(_tokenizer(model), text[:start] + replacement + text[start + len(subject) :])
    return replace(item, corrupted=_of_equal_length(item, other.ids, subject, replacement))


def _first_of(model: LanguageModel, text: str, tokens: tuple[int, ...], answer: str) -> int:
    """The first token of `answer` behind `text`, whose own tokens are `tokens`."""
    whole = encode_continued(_tokenizer(model), text, answer if text[-1:].isspace() else f" {answer}")
    if whole.prompt != tokens:
        raise UsageError(
            f"--answer {answer!r}: the tokenizer of {model.name} joins the end of --prompt with it, so that it has no "
            "first token of its own; leave out the blank that ends --prompt"
        )
    return whole.continuation[0]


def _of_equal_length(item: Item, other: tuple[int, ...], subject: str, words: str) -> tuple[int, ...]:
    start, stop = item.subject
    if len(other) != len(item.tokens):
        raise UsageError(
            f"--corrupt-with {words!r} makes the prompt {len(other)} tokens long and {subject!r} makes it "
            f"{len(item.tokens)}: positions would not correspond; choose a subject of equal token length"
        )
    if other[:start] + other[stop:] != item.tokens[:start] + item.tokens[stop:]:
        raise UsageError(f"--corrupt-with {words!r}: the tokens around the subject change too; choose another subject")
    if other == item.tokens:
        raise UsageError(f"--corrupt-with {words!r} leaves the prompt as it is; choose another subject")
    return other


def check_item(model: LanguageModel, item: Item, max_tokens: int) -> None:
    """Raises InputError for a prompt that cannot be traced."""
    if (problem := _problem(model, item, max_tokens)) is not None:
        raise InputError(f"the prompt cannot be traced: {problem.reason}")


def _problem(model: LanguageModel, item: Item, max_tokens: int) -> Excluded | None:
    if len(item.tokens) > max_tokens:
        return Excluded(item.id, "too_long", f"{len(item.tokens)} tokens, more than max_tokens {max_tokens}")
    size = model.config.vocab_size
    outside = next((t for t in (*item.tokens, *(item.corrupted or ()), item.answer or 0) if t >= size), None)
    if outside is not None:
        return Excluded(item.id, "bad_input", f"token {outside} is outside of the model's vocabulary of {size}")
    return None


def _tokenizer(model: LanguageModel) -> Any:
    if model.tokenizer is None or not model.tokenizer.is_fast:
        raise InputError(
            f"model {model.name} has no tokenizer that maps words to tokens; name one with --tokenizer, or call "
            "mplat.interp.tracing.causal_trace with token ids"
        )
    return model.tokenizer
