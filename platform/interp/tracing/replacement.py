"""Symmetric replacement over many prompts: every subject gives way to another prompt's subject of equal token length.

Donors are those of the same relation, where there is one, else any; which of them is a pure function of the seed and
the prompt's id, so that a prompt meets the same donor whatever its neighbours in a batch. The replaced prompt must
differ from the clean one in the subject's tokens alone, or the donor will not do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING

from ...errors import UsageError
from .prompts import Excluded, Item, Prompt, encode_text

if TYPE_CHECKING:
    from ...models import LanguageModel


def replaced_text(prompt: Prompt, words: str) -> str:
    """The prompt with `words` in place of its subject."""
    start, stop = prompt.span
    return prompt.text[:start] + words + prompt.text[stop:]


def replace_subject(model: LanguageModel, prompt: Prompt, item: Item, words: str) -> Item:
    """The item with `words` in place of the subject. Raises UsageError where they have another number of tokens."""
    tokens = encode_text(model, replaced_text(prompt, words)).tokens
    start, stop = item.subject
    if len(tokens) != len(item.tokens):
        subject = prompt.text[slice(*prompt.span)]
        raise UsageError(
            f"{words!r} makes the prompt {len(tokens)} tokens long and {subject!r} makes it {len(item.tokens)}: "
            "positions would not correspond; choose a subject of equal token length"
        )
    if tokens[:start] + tokens[stop:] != item.tokens[:start] + item.tokens[stop:]:
        raise UsageError(f"with {words!r} the tokens around the subject change too; choose another subject")
    if tokens == item.tokens:
        raise UsageError(f"{words!r} leaves the prompt as it is; choose another subject")
    return Item(item.id, item.tokens, item.subject, item.answer, tokens)


def exchange_subjects(
    model: LanguageModel, prompts: Sequence[Prompt], items: Sequence[Item], *, seed: int
) -> tuple[list[Item], list[Excluded]]:
    """The items with a corrupted version each, and those for which no donor was found."""
    by_id = {prompt.id: prompt for prompt in prompts}
    lengths: dict[int, list[Prompt]] = {}
    for item in items:
        lengths.setdefault(item.subject[1] - item.subject[0], []).append(by_id[item.id])
    found: list[Item] = []
    without: list[Excluded] = []
    for item in items:
        prompt = by_id[item.id]
        size = item.subject[1] - item.subject[0]
        for donor in _donors(prompt, lengths[size], seed):
            try:
                found.append(replace_subject(model, prompt, item, donor.text[slice(*donor.span)]))
            except UsageError:  # of another length here than in its own prompt, or the same subject
                continue
            break
        else:
            reason = f"no other prompt has a subject of {size} tokens that fits here"
            without.append(Excluded(item.id, "no_replacement", reason))
    return found, without


def _donors(prompt: Prompt, candidates: Sequence[Prompt], seed: int) -> Iterator[Prompt]:
    """Other prompts in the order in which they are tried: those of the same relation first."""
    own = prompt.text[slice(*prompt.span)]
    others = [other for other in candidates if other.text[slice(*other.span)] != own]
    near = [other for other in others if other.relation == prompt.relation]
    far = [other for other in others if other.relation != prompt.relation]
    for group in (near, far):
        ordered = sorted(group, key=lambda other: other.id)
        Random(f"{seed}:{prompt.id}").shuffle(ordered)
        yield from ordered
