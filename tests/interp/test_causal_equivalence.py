"""Models that compute the same are found to, feature by feature and by what stands in; others are not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from equal_models import answered_by, in_another_basis, rearranged, untied
from interp_jobs import token_items
from mplat.core.errors import UsageError
from mplat.interp import Cache, StepResult, config_model, plan_steps, run_plan
from mplat.interp.engine.batches import Item
from mplat.interp.engine.encoded import Encoded
from mplat.interp.engine.inputs import Given
from mplat.interp.methods.feature_matching import agreement, match
from mplat.interp.methods.linear_alignment import explained, procrustes, ridge
from mplat.interp.methods.question_halves import halves_by_group
from mplat.interp.methods.remaining import Remaining, remaining
from mplat.models import LanguageModel
from safetensors.torch import save_file

QUICK = {"chance_draws": 8, "resamples": 200}


def compared(
    first: LanguageModel, others: Sequence[LanguageModel], items: Sequence[Item], folder: Path, **settings: Any
) -> StepResult:
    config: Any = config_model().model_validate(
        {"steps": ("causal_equivalence",), "causal_equivalence": QUICK | settings}
    )
    given = Given(encoded={"questions": Encoded(tuple(items))})
    plan = plan_steps(first, config=config, given=given, others=others)
    return run_plan(plan, cache=Cache(folder))["causal_equivalence"]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return untied()


@pytest.fixture(scope="module")
def items(model: LanguageModel) -> list[Item]:
    return answered_by(model, token_items(140, seed=1))


@pytest.mark.slow
def test_channels_in_another_order_and_on_another_scale_are_matched_one_by_one(model, items, tmp_path) -> None:
    twin, channels, coordinates = rearranged(model)
    tokens = torch.tensor([items[0].prompt])
    torch.testing.assert_close(twin(tokens), model(tokens), rtol=1e-9, atol=1e-9)
    sites = ("mixer.x_in", "mixer.y", "mixer.gated", "mixer.B", "mixer.C")
    found = compared(
        model, (twin, untied(seed=5)), items, tmp_path, sites=sites, bases=["channels"], maps=["ridge"], draws=1
    )
    pairs = found.tables["pairs"].to_pylist()
    for layer in (0, 1):
        for site in sites:
            order = (coordinates if site[-1] in "BC" else channels)[layer]
            for by in ("value", "effect"):
                here = [
                    r for r in pairs if (r["other"], r["layer"], r["site"], r["by"]) == (twin.name, layer, site, by)
                ]
                assert {r["feature"]: r["other_feature"] for r in here} == {int(e): i for i, e in enumerate(order)}
                assert min(r["held_out"] for r in here) > 1 - 1e-6
    rows = found.tables["features"].to_pylist()
    same = [row for row in rows if row["other"] == twin.name]
    assert {(row["share"], row["agreement"]) for row in same} == {(1.0, 1.0)}
    assert max(row["p_holm"] for row in same if row["features"] > 10) < 1e-4  # among five, chance has few pairs
    unrelated = [row for row in rows if row["other"] == "mamba (3)" and row["features"] > 10]
    assert len(unrelated) == 12 and max(row["agreement"] for row in unrelated) < 0.15
    assert max(row["correlation"] for row in unrelated) < 0.6


@pytest.mark.slow
def test_activations_of_the_same_function_stand_in_and_those_of_controls_do_not(model, items, tmp_path) -> None:
    """The residual stream in another basis: no channel is like another one, all directions are."""
    twin = in_another_basis(model)
    tokens = torch.tensor([items[0].prompt])
    torch.testing.assert_close(twin(tokens), model(tokens), rtol=1e-9, atol=1e-9)
    found = compared(model, (twin,), items, tmp_path, sites=["mixer_out", "resid_post"], resamples=1000, draws=2)
    rows = found.tables["patching"].to_pylist()
    assert len(rows) == 2 * 2 * (1 + 2 * 5)
    for row in rows:
        assert row["cost_low"] > 0  # there is something to restore
        if row["stand_in"] == "aligned":
            assert row["share"] == pytest.approx(1.0, abs=1e-3) and row["explained"] > 1 - 1e-5
            assert row["share_low"] > 0.99 and row["accuracy"] == row["clean_accuracy"] == 1.0
            assert row["p"] < 0.03
            assert row["verdict"] == "more than both controls" or row["cost"] < 0.2
        elif row["stand_in"] == "mean":
            assert row["share"] == 0.0
        else:
            assert row["control"] and row["share"] < 0.5, row
    another = compared(untied(seed=5), (model,), items, tmp_path, sites=["resid_post"], bases=["channels"], draws=2)
    aligned = [row for row in another.tables["patching"].to_pylist() if row["stand_in"] == "aligned"]
    assert len(aligned) == 4 and all(row["share"] < 0.5 and row["accuracy"] < 0.4 for row in aligned)
    for row in found.tables["features"].to_pylist():
        exact = row["basis"] == "principal"
        assert (row["share"] == row["agreement"] == 1.0) is exact and (row["correlation"] > 1 - 1e-6) is exact


@pytest.mark.slow
def test_directions_of_a_file_are_matched_and_their_content_is_part_of_the_key(model, items, tmp_path) -> None:
    turn = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    where, name = tmp_path / "directions.safetensors", "blocks.1.mixer_out"
    save_file({f"0/{name}": turn[:6].contiguous(), f"1/{name}": turn[:6].flip(0).contiguous()}, where)
    settings = {"sites": ["mixer_out"], "bases": ["channels"], "maps": ["ridge"], "draws": 1, "directions": str(where)}
    found = compared(model, (model,), items, tmp_path / "cache", **settings)
    given = [row for row in found.tables["pairs"].to_pylist() if row["basis"] == "given"]
    assert {(r["layer"], r["feature"], r["other_feature"]) for r in given} == {(1, i, 5 - i) for i in range(6)}
    save_file({f"0/{name}": turn[:4].contiguous(), f"1/{name}": turn[:4].contiguous()}, where)
    assert compared(model, (model,), items, tmp_path / "cache", **settings).key != found.key
    for wrong, message in ((2 * turn[:2], "orthonormal"), (turn[:2, :5], r"\(k, 24\)")):
        save_file({f"0/{name}": wrong.contiguous()}, where)
        with pytest.raises(UsageError, match=message):
            compared(model, (model,), items, tmp_path / "cache", **settings)
    with pytest.raises(ValueError, match="cannot be read"):
        compared(model, (model,), items, tmp_path / "cache", **(settings | {"directions": str(tmp_path / "absent")}))


def test_what_a_model_lacks_and_too_few_questions_are_said(model, items, tmp_path) -> None:
    from model_zoo import nano

    for other, few, word in ((nano("hyena"), items, "no block has mixer.y"), (model, items[:5], "fewer than 6 groups")):
        found = compared(model, (other,), few, tmp_path, sites=["mixer.y"], bases=["channels"])
        assert found.bad == {}
        for part in ("features", "patching"):
            for row in found.tables[part].to_pylist():
                assert row["status"] == "not_applicable" and word in row["reason"]
                assert not any(isinstance(value, float) for value in row.values())


def test_matches_of_unrelated_features_have_uniform_p_values_and_few_above_the_bar() -> None:
    from scipy.stats import kstest

    rng = np.random.default_rng(0)
    made = np.arange(40) < 20
    found = [
        match(*rng.normal(size=(2, 40, 10)), made_on=made, signed=bool(i % 2), draws=20, seed=i) for i in range(300)
    ]
    assert kstest([one.p for one in found], "uniform").pvalue > 0.01
    assert float(np.mean([one.share for one in found])) == pytest.approx(0.05, abs=0.02)


def test_a_negative_correlation_is_the_same_value_and_another_effect() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 8))
    made = np.arange(60) % 2 == 0
    order = rng.permutation(8)
    turned = match(x, -3 * x[:, order], made_on=made, signed=False, draws=5, seed=0)
    assert turned.first.tolist() == list(range(8)) and order[turned.second].tolist() == list(range(8))
    assert turned.mean == pytest.approx(1.0) and turned.p < 1e-3
    as_effects = match(x, -3 * x[:, order], made_on=made, signed=True, draws=5, seed=0)
    assert as_effects.mean < 0.5 and agreement(turned, as_effects) < 0.5
    constant = match(np.ones((60, 3)), x, made_on=made, signed=False, draws=5, seed=0)
    assert constant.held_out.tolist() == [0.0, 0.0, 0.0] and constant.p > 0.05


def test_the_ridge_chooses_its_penalty_by_leaving_out_one_question_at_a_time() -> None:
    rng = np.random.default_rng(2)
    x, truth = rng.normal(size=(18, 6)), rng.normal(size=(6, 3))
    y = x @ truth + 5 + 0.8 * rng.normal(size=(18, 3))
    strengths = [1e-3, 1e-1, 1.0, 10.0]

    def solved(a: np.ndarray, b: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        c = a - a.mean(0)
        return np.linalg.solve(c.T @ c + penalty * np.eye(6), c.T @ (b - b.mean(0))), a.mean(0), b.mean(0)

    unit = (np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2).mean()
    errors = []
    for strength in strengths:
        error = 0.0
        for i in range(18):
            # leaving one out in closed form keeps the penalty; the mean is that of the others
            weight, mean_x, mean_y = solved(np.delete(x, i, 0), np.delete(y, i, 0), strength * unit)
            error += float(((y[i] - mean_y - (x[i] - mean_x) @ weight) ** 2).sum())
        errors.append(error)
    fitted = ridge(x, y, strengths)
    assert fitted.strength == strengths[int(np.argmin(errors))]
    weight, *_ = solved(x, y, fitted.strength * unit)
    np.testing.assert_allclose(fitted.weight, weight, rtol=1e-9)
    np.testing.assert_allclose(fitted.of(x.mean(0)), y.mean(0), rtol=1e-9)


def test_a_rotation_is_found_with_its_factor() -> None:
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    x = rng.normal(size=(20, 5))
    fitted = procrustes(x, 2.5 * x @ turn - 1)
    np.testing.assert_allclose(fitted.weight, 2.5 * turn, atol=1e-9)
    assert explained(fitted, x, 2.5 * x @ turn - 1) == pytest.approx(1.0)
    wider = procrustes(x, np.hstack([x @ turn, np.zeros((20, 2))]))
    np.testing.assert_allclose(wider.weight, np.hstack([turn, np.zeros((5, 2))]), atol=1e-9)
    with pytest.raises(UsageError, match="three questions"):
        procrustes(x[:2], x[:2])


def test_what_remains_is_a_ratio_of_sums_whose_interval_counts_groups() -> None:
    rng = np.random.default_rng(4)
    floor = rng.normal(-5, 1, 60)
    clean = floor + rng.gamma(4.0, 1.0, 60)
    patched = floor + 0.7 * (clean - floor) + rng.normal(0, 0.3, 60)
    alone = [str(i) for i in range(60)]
    how: dict[str, Any] = {"seed": 1, "n_resamples": 2000}

    def width(of: Remaining) -> float:
        assert of.low is not None and of.high is not None and of.low < 0.7 < of.high
        return of.high - of.low

    found = remaining(patched, clean, floor, groups=alone, **how)
    assert found.share == pytest.approx((patched - floor).sum() / (clean - floor).sum())
    assert width(found) < 0.1
    assert remaining(clean, clean, floor, groups=alone, **how)[4:] == pytest.approx((1.0, 1.0, 1.0))
    assert remaining(floor, clean, floor, groups=alone, **how)[4:] == (0.0, 0.0, 0.0)
    # the same questions four times over know no more than once
    often = [np.tile(values, 4) for values in (patched, clean, floor)]
    grouped = remaining(*often, groups=alone * 4, **how)
    assert grouped[4:] == pytest.approx(found[4:])
    narrower = remaining(*often, groups=[str(i) for i in range(240)], **how)
    assert width(narrower) < 0.7 * width(found)
    still = floor + np.tile([0.01, -0.01], 30)  # the mean costs nothing
    nothing = remaining(patched, still, floor, groups=alone, **how)
    assert nothing.cost is not None and nothing.share is None
    assert remaining(patched, clean, floor, groups=["one"] * 60, **how).share is None


def test_halves_keep_groups_whole_and_kinds_in_balance() -> None:
    items = [
        Item(f"{g} {i}", (1,), (2,), kind=f"kind {g % 3}", group=f"g{g}") for g in range(30) for i in range(1 + g % 2)
    ]
    first, second = halves_by_group(items, 0)
    assert first | second == {item.id for item in items} and not first & second
    for name in {item.group for item in items}:
        ids = {item.id for item in items if item.group == name}
        assert ids <= first or ids <= second
    for kind in range(3):
        sides = [len({i.group for i in items if i.kind == f"kind {kind}" and i.id in half}) for half in (first, second)]
        assert abs(sides[0] - sides[1]) <= 1
    assert halves_by_group(items[::-1], 0) == (first, second) != halves_by_group(items, 1)
