"""A batch as tensors: prompts alone, or prompts followed by their answers for teacher forcing.

Rows are padded on the right and come with their mask. Batches are planned elsewhere, from the data alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ...models.decoding.prefill import pad
from ...runtime.plan import digest_of

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One question as token ids, `answer` being the first accepted answer, preceded by a space; or a plain text, which
    has no answer.

    fact: the tokens (start, stop) of the prompt that state the answer; None where it does not state it. kind: sort of
    question, its category and number of hops; None where nothing is known of it. group: what several questions have in
    common (`Question.origin`), of which all stand on one side of a split; "" for a plain text.
    """

    id: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    fact: tuple[int, int] | None = None
    kind: str | None = None
    category: str | None = None
    hops: int | None = None
    group: str = ""

    @property
    def distance(self) -> int | None:
        """Tokens from the end of the fact to the last one of the prompt, over which it has to be kept."""
        return None if self.fact is None else len(self.prompt) - self.fact[1]

    @property
    def length(self) -> int:
        """Tokens of the prompt and its answer, by which batches are planned."""
        return len(self.prompt) + len(self.answer)

    @property
    def highest_token(self) -> int:
        """Of all its tokens."""
        return max((*self.prompt, *self.answer))

    def to_json(self) -> dict[str, Any]:
        """As a worker receives it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Item:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        return cls(**fields)


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, at equal steps from the first: questions often come in order of difficulty."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def halves(items: Sequence[Item]) -> tuple[frozenset[str], frozenset[str]]:
    """The ids of the items in two halves, drawn by a digest of the ids: to choose on one and to test on the other."""
    order = sorted((item.id for item in items), key=digest_of)
    return frozenset(order[::2]), frozenset(order[1::2])


class AnsweredBatch(NamedTuple):
    """Prompts followed by all but the last token of their answers.

    tokens, mask (B, T). columns (B, A): where the model predicts answer token a. targets (B, A): that token.
    counts (B, A) bool: False behind the end of a shorter answer, where column and target mean nothing.
    """

    tokens: Tensor
    mask: Tensor
    columns: Tensor
    targets: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Batch:
    """Items that go through the model together: of the kind that the step takes, see `step.Kind`."""

    items: Sequence[Any]
    device: torch.device

    def prompts(self) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) and mask (B, T) of the prompts."""
        tokens, mask = pad([item.prompt for item in self.items])
        return tokens.to(self.device), mask.to(self.device)

    def answered(self) -> AnsweredBatch:
        """The prompts with their answers."""
        tokens, mask = pad([item.prompt + item.answer[:-1] for item in self.items])
        targets, counts = pad([item.answer for item in self.items])
        first = torch.tensor([len(item.prompt) - 1 for item in self.items])
        columns = (first[:, None] + torch.arange(targets.shape[1])).clamp(max=tokens.shape[1] - 1)
        return AnsweredBatch(*(t.to(self.device) for t in (tokens, mask, columns, targets, counts)))
