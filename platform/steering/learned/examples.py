"""Examples: a prompt and what should follow it, as rows of tokens in which only the answers are judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...core.errors import InputError, UsageError

if TYPE_CHECKING:
    from ...models import LanguageModel

UNJUDGED = -100
"""The label of tokens that are no answer, as torch's cross entropy has it."""
STOP = "\n"
"""What ends an answer; it is learned too, since generation stops there."""


@dataclass(frozen=True)
class Example:
    """A prompt and the answer that should follow it, its space in front included."""

    prompt: str
    answer: str


class Rows(NamedTuple):
    """tokens, mask, labels (B, T), padded on the right. labels[:, t] is the token that should follow token t where it
    belongs to an answer, UNJUDGED elsewhere."""

    tokens: Tensor
    mask: Tensor
    labels: Tensor

    def some(self, rows: Sequence[int]) -> Rows:
        """These rows, without columns that are padding in all of them."""
        index = torch.tensor(list(rows), device=self.tokens.device)
        width = int(self.mask[index].sum(1).max())
        return Rows(*(part[index, :width] for part in self))


def rows_of(model: LanguageModel, examples: Sequence[Example], *, stop: str = STOP) -> Rows:
    """The examples in tokens. The tokens of an answer are those of the text prompt + answer + stop behind the prompt.

    Raises InputError for a model without a tokenizer, no examples, or a prompt or answer without a token.
    """
    from ...models.decoding.text import encode_continued

    if model.tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the examples; name one with --tokenizer")
    if not examples:
        raise InputError("there is no example to learn from or to score")
    texts: list[list[int]] = []
    targets: list[list[int]] = []
    for example in examples:
        found = encode_continued(model.tokenizer, example.prompt, example.answer + stop)
        if not found.prompt:
            raise InputError(f"the prompt {example.prompt[:60]!r} has no token before its answer")
        texts.append([*found.prompt, *found.continuation])
        targets.append([*[UNJUDGED] * (len(found.prompt) - 1), *found.continuation, UNJUDGED])
    width = max(map(len, texts))
    tokens = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
    labels = torch.tensor([[*target, *[UNJUDGED] * (width - len(target))] for target in targets])
    mask = torch.tensor([[i < len(text) for i in range(width)] for text in texts])
    return Rows(tokens.to(model.device), mask.to(model.device), labels.to(model.device))


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """The same prompts with each other's answers: what is learned from them is no rule.

    Raises UsageError for fewer than two examples.
    """
    if len(examples) < 2:
        raise UsageError("answers can be exchanged among two examples or more")
    order = list(range(len(examples)))
    Random(f"exchanged answers {seed}").shuffle(order)
    turned = order[1:] + order[:1]  # along one circle, so that none keeps its own
    answer = {i: examples[j].answer for i, j in zip(order, turned, strict=True)}
    return [Example(example.prompt, answer[i]) for i, example in enumerate(examples)]


def digest_of(examples: Iterable[Example]) -> str:
    """sha256 over prompts and answers in their order."""
    content = json.dumps([[e.prompt, e.answer] for e in examples], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def asked(examples: Iterable[Example]) -> tuple[str, ...]:
    """The digests of the prompts as questions (`datasets.prompting.asked_before`), which must not judge what was
    learned from them."""
    from ...datasets.prompting.asked_before import question_digests
    from ...datasets.records import Question

    return question_digests(Question("", "own", "", "", prompt=example.prompt) for example in examples)
