"""Factual prompts as token ids: where the subject's tokens are, and which token is the answer.

The answer is judged by its first token, as it follows the prompt. What cannot be used is left out with a status and a
reason, never silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError, UsageError
from ...core.json_files import Plain
from ...datasets.factual import FactualPrompt, locate, swap_subjects
from ...models.decoding.text import encode_continued, encode_text
from ..engine.encoded import Encoded
from ..engine.lengths import Length, Lengthening
from ..engine.step import Excluded

if TYPE_CHECKING:
    from ...models import LanguageModel


@dataclass(frozen=True)
class FactItem:
    """A prompt as a worker gets it. subject: token positions (start, stop). answer: the first token of what should
    follow; None: open. corrupted: the prompt with another subject, of equal length; None: noise."""

    id: str
    tokens: tuple[int, ...]
    subject: tuple[int, int]
    answer: int | None
    corrupted: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        """Tokens of the prompt, by which batches are planned."""
        return len(self.tokens)

    @property
    def highest_token(self) -> int:
        """Of all its tokens."""
        return max((*self.tokens, *(self.corrupted or ()), self.answer or 0))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as the runtime sends it."""
        fields: dict[str, tuple[int, ...] | str | int | None] = vars(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Plain]) -> FactItem:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        return cls(**fields)


def encode_facts(
    model: LanguageModel,
    prompts: Sequence[FactualPrompt],
    *,
    max_tokens: int,
    swapped: bool = False,
    length: Length | None = None,
) -> Encoded:
    """Factual prompts in tokens, in order, and those that cannot be used.

    length: that every prompt gets by filler, in place of `max_tokens`. swapped: each gets as its corrupted version the
    same prompt about another one's subject (`swap_subjects`).
    Raises InputError for an id that occurs twice, where no prompt can be used, and for a model whose tokenizer cannot
    say where its tokens stand.
    """
    tokenizer = _tokenizer(model)
    seen: set[str] = set()
    usable: dict[FactItem, FactualPrompt] = {}
    excluded: list[Excluded] = []
    longer = None if length is None else Lengthening(length, tokenizer, prompts)
    longest = max_tokens if length is None else length.tokens
    for prompt in prompts:
        if prompt.id in seen:
            raise InputError(f"the prompt id {prompt.id!r} occurs more than once; ids must be unique")
        seen.add(prompt.id)
        if longer is not None:
            brought = longer.fact(prompt)
            if isinstance(brought, Excluded):
                excluded.append(brought)
                continue
            prompt = brought
        try:
            found = locate(prompt, tokenizer)
        except InputError as error:
            excluded.append(Excluded(prompt.id, "no_place", str(error)))
            continue
        item = FactItem(prompt.id, found.tokens, found.subject, found.answer[0])
        if (problem := _problem(model, item, longest)) is not None:
            excluded.append(problem)
        else:
            usable[item] = prompt
    texts = {item: prompt.prompt for item, prompt in usable.items()}
    if swapped:
        others = dict(zip(usable, swap_subjects(list(usable.values()), tokenizer), strict=True))
        reason = "no prompt of the same relation has a subject of as many tokens and another answer"
        excluded += [Excluded(item.id, "no_replacement", reason) for item, other in others.items() if other is None]
        texts = {replace(item, corrupted=o.tokens): texts[item] for item, o in others.items() if o is not None}
    if not texts:
        first = f"; the first, {excluded[0].id!r}: {excluded[0].reason}" if excluded else ""
        raise InputError(f"none of the {len(prompts)} prompts can be traced{first}")
    return Encoded(tuple(texts), tuple(excluded), texts=tuple(texts.values()))


def open_item(
    model: LanguageModel, name: str, text: str, subject: str, *, answer: str | None, replacement: str | None
) -> FactItem:
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
    item = FactItem(name, encoded.ids, place, first)
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
            "first token of its own; leave out the space that ends --prompt"
        )
    return whole.continuation[0]


def _of_equal_length(item: FactItem, other: tuple[int, ...], subject: str, words: str) -> tuple[int, ...]:
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


def check_item(model: LanguageModel, item: FactItem, max_tokens: int) -> None:
    """Raises InputError for a prompt that cannot be traced."""
    if (problem := _problem(model, item, max_tokens)) is not None:
        raise InputError(f"the prompt cannot be traced: {problem.reason}")


def _problem(model: LanguageModel, item: FactItem, max_tokens: int) -> Excluded | None:
    if len(item.tokens) > max_tokens:
        return Excluded(item.id, "too_long", f"{len(item.tokens)} tokens, more than max_tokens {max_tokens}")
    size = model.config.vocab_size
    if (token := item.highest_token) >= size:
        return Excluded(item.id, "bad_input", f"token {token} is outside of the model's vocabulary of {size}")
    return None


def _tokenizer(model: LanguageModel) -> Any:
    if model.tokenizer is None or not model.tokenizer.is_fast:
        raise InputError(
            f"model {model.name} has no tokenizer that maps words to tokens; name one with --tokenizer, or call "
            "mplat.interp.tracing.causal_trace with token ids"
        )
    return model.tokenizer
