"""Conditions, and what is computed once because it is the same thing under two names."""

from __future__ import annotations

import pyarrow as pa
from mplat.eval.conditions import PLAIN, Condition, aliases, candidates, computed, judged
from mplat.eval.schema import ITEM_SCHEMA
from recipes import scaled

RECIPE = scaled("d" * 64, (2, 5))
IDENTITY = RECIPE.scaled(0)


def test_names_are_unique_and_families_are_theirs_without_the_number():
    conditions = [PLAIN, *candidates([RECIPE, IDENTITY]), *judged(RECIPE, {"random": [RECIPE] * 3})]
    assert [c.name for c in conditions] == [
        "unsteered", "candidate_000", "candidate_001", "steered", "control_random_0", "control_random_1",
        "control_random_2",
    ]  # fmt: skip
    assert [c.family for c in conditions[3:]] == ["steered"] + ["control_random"] * 3
    assert [c.draw for c in conditions] == [None] * 4 + [0, 1, 2]


def test_json_round_trip():
    for condition in (PLAIN, *judged(RECIPE, {"random": [IDENTITY]})):
        assert Condition.from_dict(condition.to_dict()) == condition


def test_strength_one_is_not_computed_but_copied_from_the_unsteered_rows():
    conditions = candidates([RECIPE, IDENTITY])
    assert [c.name for c in computed(conditions)] == ["unsteered", "candidate_000"]
    same = {
        "dataset": "d",
        "category": "c",
        "split": "test",
        "model": "m",
        "variant": "v",
        "metric": "x",
        "status": "ok",
    }
    rows = [
        same | {"question_id": q, "prediction": f"{q} {c.name}"} | c.fields()
        for q in "ab"
        for c in computed(conditions)
    ]
    copies = aliases(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), conditions).to_pylist()
    assert [(r["question_id"], r["condition"], r["prediction"], r["strength"]) for r in copies] == [
        ("a", "candidate_001", "a unsteered", 1.0), ("b", "candidate_001", "b unsteered", 1.0),
    ]  # fmt: skip
