"""Items in tokens, and the plan of their batches: what goes through the model together, decided by the data alone.

Batches hold items of like length, the longest first. What cannot be used is left out with a status and a reason, never
silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...runtime.plan import Shard, digest_of, plan_shards
from .step import Excluded

if TYPE_CHECKING:
    from ...datasets.prompting.prompts import Prompt

#: what is read of every factual prompt or plain text
TEXT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Encoded:
    """The items of one kind that go through the model, in the order given, and those that do not. prompts: of
    questions, as they were rendered; texts: of items of other kinds."""

    items: tuple[Any, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    questions: tuple[str, ...] = ()  # digests of those that go through the model (`datasets.asked_before`)
    texts: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """sha256 over ids, token ids, what was left out and the templates."""
        left_out = [[e.id, e.status] for e in self.excluded]
        templates = sorted({prompt.template for prompt in self.prompts})
        return digest_of([[i.to_json() for i in self.items], left_out, templates])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item, by which batches are planned."""
        return [item.length for item in self.items]

    def plan(self, batch_size: int) -> tuple[Shard, ...]:
        """The batches."""
        return plan_shards(self.lengths, batch_size)

    def text_table(self) -> pa.Table:
        """The texts of the items in `TEXT_SCHEMA`."""
        named = zip(self.items, self.texts, strict=True)
        rows = [{"id": item.id, "text": text, "n_tokens": item.length} for item, text in named]
        return pa.Table.from_pylist(rows, schema=TEXT_SCHEMA)


def together(parts: Iterable[Encoded]) -> Encoded:
    """Items of all kinds, to count them."""
    found = list(parts)
    if len(found) == 1:
        return found[0]
    return Encoded(
        tuple(item for part in found for item in part.items),
        tuple(excluded for part in found for excluded in part.excluded),
        tuple(prompt for part in found for prompt in part.prompts),
        tuple(digest for part in found for digest in part.questions),
        tuple(text for part in found for text in part.texts),
    )


def plan_digest(plan: Sequence[Shard]) -> str:
    """Digest of which items meet in which batch, in which order."""
    return digest_of([list(shard.items) for shard in plan])
