"""Questions in two halves: to fit, match or choose on one, and to judge on the other.

Questions of one group (a document, an article, an entity) stand on one side, and each kind of question in equal parts
on both, so that neither a fact seen before nor another mixture of kinds looks like a result."""

from __future__ import annotations

from collections.abc import Sequence

from ...runtime.plan import digest_of
from ..engine.batches import Item


def group_of(item: Item) -> str:
    """What the item depends on together with others; of one that names no group, the item itself."""
    return item.group or item.id


def halves_by_group(items: Sequence[Item], seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """The ids of the items in two halves, drawn by a digest of seed and group; a group's kind is that of its first."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(group_of(item), []).append(item)
    order = sorted(groups, key=lambda name: (groups[name][0].kind or "", digest_of([seed, name])))
    first, second = ([item.id for name in side for item in groups[name]] for side in (order[::2], order[1::2]))
    return frozenset(first), frozenset(second)
