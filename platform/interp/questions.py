"""Questions as token ids, and the plan of batches: what goes through the model together, decided by the data alone.

Prompts are rendered as the evaluation renders them. A question that cannot be used (no prompt, no answer, too long) is
left out with a status and a reason, never silently. Batches hold questions of like length, the longest first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import InputError, UsageError
from ..runtime.plan import Shard, digest_of, plan_shards
from .batches import Item
from .evidence import stated_at
from .registry import Excluded

if TYPE_CHECKING:
    from ..datasets.records import Question
    from ..models import LanguageModel


@dataclass(frozen=True)
class Encoded:
    """The questions that go through the model, in the order given, and those that do not."""

    items: tuple[Item, ...]
    excluded: tuple[Excluded, ...]

    @cached_property
    def digest(self) -> str:
        """sha256 over ids, token ids and what was left out."""
        return digest_of([[i.to_json() for i in self.items], [[e.id, e.status] for e in self.excluded]])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item with its answer, by which batches are planned."""
        return [len(item.prompt) + len(item.answer) for item in self.items]

    def plan(self, batch_size: int) -> tuple[Shard, ...]:
        """The batches."""
        return plan_shards(self.lengths, batch_size)


def kind_of(question: Question) -> str | None:
    """The sort of question, within which prompts are compared: category and number of hops, as far as known."""
    hops = None if question.hops is None else f"{question.hops} hop{'' if question.hops == 1 else 's'}"
    return ", ".join(part for part in (question.category, hops) if part) or None


def plan_digest(plan: Sequence[Shard]) -> str:
    """Digest of which items meet in which batch, in which order."""
    return digest_of([list(shard.items) for shard in plan])


def encode(model: LanguageModel, questions: Sequence[Question], *, max_tokens: int) -> Encoded:
    """Token ids of `questions`.

    Raises InputError where there are no questions, none that can be used, two with one id, or no tokenizer;
    UsageError where `max_tokens` is below 1.
    """
    from ..eval.prompting import render

    if max_tokens < 1:
        raise UsageError(f"max_tokens is {max_tokens}; it must be at least 1")
    if not questions:
        raise InputError("there are no questions; an analysis needs at least one (make some with `mplat prompts`)")
    twice = [id_ for id_, count in Counter(q.id for q in questions).items() if count > 1]
    if twice:
        raise InputError(f"{len(twice)} question ids occur more than once, {twice[0]!r} for one; ids must be unique")
    if model.tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the questions; name one with --tokenizer")
    tokenizer = model.tokenizer

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]

    items: list[Item] = []
    excluded: list[Excluded] = []
    for question in questions:
        prompt = render(question, ids, max_tokens)
        text = question.answers[0].strip() if question.answers else ""
        if prompt.status != "ok":
            excluded.append(Excluded(question.id, prompt.status, prompt.reason))
        elif not text:
            excluded.append(Excluded(question.id, "bad_input", "no answer is given"))
        else:
            answer = ids(" " + text)
            fact = stated_at(question, prompt.tokens, answer, ids)
            items.append(Item(question.id, tuple(prompt.tokens), tuple(answer), fact, kind_of(question)))
    if not items:
        first = excluded[0]
        raise InputError(f"none of the {len(questions)} questions can be used; the first, {first.id!r}: {first.reason}")
    return Encoded(tuple(items), tuple(excluded))
