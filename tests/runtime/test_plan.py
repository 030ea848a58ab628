"""Shards come from the data alone, and a plan's digest changes with everything that could change a row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import UsageError
from mplat.runtime import canonical_json, plan_digest, plan_shards

ITEMS = [{"id": "a"}, {"id": "b"}, {"id": "c"}]
KEY = {"model": "m", "strength": 2}


def digest(name: str = "eval", batch_size: int = 2, items=ITEMS, schema: str = "id: string", key=KEY):
    return plan_digest(name, plan_shards(len(items), batch_size), items, schema=schema, semantic_key=key)


@given(lengths=st.lists(st.integers(0, 50), max_size=40), batch_size=st.integers(1, 9))
def test_every_item_is_in_exactly_one_shard_and_lengths_never_rise(lengths: list[int], batch_size: int) -> None:
    shards = plan_shards(lengths, batch_size)
    flat = [i for shard in shards for i in shard.items]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)
    assert all(len(shard.items) == batch_size for shard in shards[:-1])
    assert all(a < b for a, b in zip(flat, flat[1:], strict=False) if lengths[a] == lengths[b]), "equal ones keep order"
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert len({shard.key for shard in shards}) == len(shards)


def test_without_lengths_the_order_is_kept() -> None:
    assert [shard.items for shard in plan_shards(5, 2)] == [(0, 1), (2, 3), (4,)]
    assert plan_shards(0, 2) == ()


def test_a_batch_holds_at_least_one_item() -> None:
    with pytest.raises(UsageError, match="batch size is 0"):
        plan_shards(3, 0)


def test_the_digest_changes_with_everything_that_could_change_a_row() -> None:
    variants = [
        digest(),
        digest(name="steer"),
        digest(batch_size=1),
        digest(items=[*ITEMS[:2], {"id": "d"}]),
        digest(schema="id: int64"),
        digest(key={**KEY, "strength": 3}),
        digest(key={**KEY, "seed": 0}),
    ]
    assert len({v.digest for v in variants}) == len(variants)
    assert digest(key=dict(reversed(KEY.items()))).digest == digest().digest, "the order of keys is no difference"
    assert digest(key={**KEY, "layers": (1, 2)}) == digest(key={**KEY, "layers": [1, 2]})


def test_a_difference_is_named_with_both_values() -> None:
    now, then = digest(key={**KEY, "strength": 5}), digest()
    assert now.first_difference(then.parts) == "key.strength (2 -> 5)"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_only_finite_json_has_a_digest(value: object) -> None:
    with pytest.raises(UsageError, match="plain finite JSON"):
        canonical_json({"x": value})
