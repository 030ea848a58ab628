"""Conditions, and what is computed once because it is the same thing under two names."""

from __future__ import annotations

import pyarrow as pa
from mplat.eval.conditions import PLAIN, Condition, aliases, computed, judged
from mplat.eval.schema import ITEM_SCHEMA
from mplat.steering import Part, Recipe
from recipes import scaled

RECIPE = scaled("d" * 64, (2, 5))
IDENTITY = RECIPE.scaled(0)


def test_names_are_unique_and_families_are_theirs_without_the_number():
    conditions = [PLAIN, *judged(RECIPE, {"random": [RECIPE] * 3}, "Q: a?\nA: b\n\n")]
    assert [c.name for c in conditions] == [
        "unsteered", "steered", "control_random_0", "control_random_1", "control_random_2", "control_prompt_0",
    ]  # fmt: skip
    assert [c.family for c in conditions] == [
        "unsteered", "steered", *["control_random"] * 3, "control_prompt",
    ]  # fmt: skip
    assert [c.draw for c in conditions] == [None] * 2 + [0, 1, 2, 0]


def test_json_round_trip():
    for condition in (PLAIN, *judged(RECIPE, {"random": [IDENTITY]}, "header")):
        assert Condition.from_dict(condition.to_dict()) == condition


def test_what_changes_nothing_is_not_computed_but_copied_from_the_unsteered_rows():
    conditions = judged(RECIPE, {"random": [IDENTITY, IDENTITY]})
    assert [c.name for c in computed(conditions)] == ["unsteered", "steered"]
    assert not Condition("words", "words", None, header="Q").is_plain
    same = {
        "dataset": "d", "category": "c", "split": "test", "model": "m", "variant": "v", "metric": "x", "status": "ok",
    }  # fmt: skip
    rows = [
        same | {"question_id": q, "prediction": f"{q} {c.name}"} | c.fields()
        for q in "ab"
        for c in computed(conditions)
    ]
    copies = aliases(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), conditions).to_pylist()
    assert [(r["question_id"], r["condition"], r["prediction"], r["strength"]) for r in copies] == [
        (q, name, f"{q} unsteered", 1.0) for name in ("control_random_0", "control_random_1") for q in "ab"
    ]  # fmt: skip


def test_what_several_parts_differ_in_is_null_and_what_they_share_is_said():
    loud = Part("scale_channels", "mixer_out", (0,), 2.0, channels=(1,))
    recipe = Recipe((loud, Part("scale_channels", "mixer_out", (1,), 3.0, channels=(2,))), "a" * 64)
    row = Condition("steered", "steered", recipe).fields()
    assert (row["operator"], row["site"]) == ("scale_channels", "mixer_out")
    assert row["layer"] is None and row["strength"] is None, "no part speaks for the other"
    one = Condition("steered", "steered", Recipe((loud,), "a" * 64)).fields()
    assert (one["layer"], one["strength"]) == (0, 2.0)
