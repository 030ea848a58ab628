"""Which items are computed together: shards, planned from the data alone.

The composition of a batch decides the last bits of a float, so a shard is the batch: the same items always meet in
the same shard, whatever the number of workers, the order of arrival, or how often the run was interrupted. Every
shard has a key that names its items, and a plan has a digest over everything that could change its rows; a ledger
made under another digest is not continued.

Nothing here knows workers, files or models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One batch of work."""

    index: int  # position in the plan
    key: str  # index and a digest of the item positions, unique in the plan
    items: tuple[int, ...]  # positions in the caller's list, in the order they are computed


def plan_shards(items: int | Sequence[int], batch_size: int) -> tuple[Shard, ...]:
    """Cut `items` into shards of at most `batch_size`.

    `items` is a number of items, kept in their order, or the length of every item: then items of like length meet,
    the longest first (a batch that does not fit in memory fails at once, and no long shard is left to start last).
    Equal lengths keep their order. Raises UsageError for a batch size below 1.
    """
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}; it must be at least 1")
    if isinstance(items, int):
        order = list(range(items))
    else:
        lengths = list(items)
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    shards = []
    for index, start in enumerate(range(0, len(order), batch_size)):
        chosen = tuple(order[start : start + batch_size])
        shards.append(Shard(index=index, key=f"{index:05d}-{digest_of(chosen)[:8]}", items=chosen))
    return tuple(shards)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN, infinity and objects are a UsageError."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a key or an item must be plain finite JSON: {error}") from error


def digest_of(value: Any) -> str:
    """Hexadecimal sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True)
class PlanDigest:
    """The digest of a plan and the parts it is made of, so that a difference can be named."""

    digest: str
    parts: Mapping[str, Any]

    def first_difference(self, other: Mapping[str, Any]) -> str:
        """Names of the parts in which `other` differs, with both values where they are short."""
        differing = []
        for name in sorted(set(self.parts) | set(other)):
            then, now = other.get(name, "absent"), self.parts.get(name, "absent")
            if then != now:
                short = max(len(str(then)), len(str(now))) <= 40
                differing.append(f"{name} ({then} -> {now})" if short else name)
        return ", ".join(differing[:3]) or "the digest itself"


def plan_digest(
    name: str,
    shards: Sequence[Shard],
    items: Sequence[Mapping[str, Any]],
    *,
    schema: str,
    semantic_key: Mapping[str, Any],
) -> PlanDigest:
    """The digest of everything that could change a row: what is computed, on which items, in which batches."""
    parts: dict[str, Any] = {f"key.{k}": v for k, v in semantic_key.items()}
    parts["name"] = name
    parts["items"] = hashlib.sha256("\n".join(canonical_json(dict(i)) for i in items).encode()).hexdigest()
    parts["batches"] = digest_of([shard.items for shard in shards])
    parts["schema"] = hashlib.sha256(schema.encode()).hexdigest()
    parts = json.loads(canonical_json(parts))  # as it will be read back: tuples are lists, keys are strings
    return PlanDigest(digest=digest_of(parts), parts=parts)
