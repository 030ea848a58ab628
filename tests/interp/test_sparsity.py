"""Measures of sparsity have their known values, and the step gives those of the activations, prompt by prompt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.interp.methods.sparsity_measures import MEASURES, Magnitudes, measures
from mplat.interp.steps.sparsity import FIXED, PERCENTILES, rotation
from mplat.scoring.statistics import bootstrap_columns, bootstrap_mean, bootstrap_ratio

ITEMS = token_items(5)


def test_the_known_values_of_one_to_four() -> None:
    found = measures(torch.tensor([1.0, -2.0, 3.0, -4.0]))
    assert found.tolist() == pytest.approx([0.25, 0.174258, 0.0767803, 0.833333], abs=1e-6)


def test_equal_values_are_not_sparse_and_a_single_one_is_as_sparse_as_can_be() -> None:
    n = 8
    assert measures(torch.full((n,), 3.0)).tolist() == pytest.approx([0, 0, 0, 1])
    assert measures(torch.eye(n, dtype=torch.float64)[2] * 1e200).tolist() == pytest.approx([1 - 1 / n, 1, 1, 1 / n])
    assert measures(torch.zeros(n)).isnan().all()
    one = measures(torch.tensor([5.0]))
    assert one[[0, 3]].tolist() == [0, 1] and one[1:3].isnan().all()


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30).filter(lambda x: max(map(abs, x)) > 1e-3))
@settings(max_examples=50, deadline=None)
def test_sparsity_knows_neither_sign_nor_order_nor_scale(values: list[float]) -> None:
    x = np.array(values)
    found = measures(torch.from_numpy(x)).numpy()
    again = measures(torch.from_numpy(-7e3 * x[::-1].copy())).numpy()
    np.testing.assert_allclose(found, again, atol=1e-9)
    size = np.abs(x)
    pairs = np.abs(size[:, None] - size).mean() / (2 * size.mean())  # Gini as the relative mean difference
    assert found[0] == pytest.approx(pairs, abs=1e-9)
    assert (found[:3] > -1e-9).all() and (found < 1 + 1e-9).all()


def test_the_optimal_threshold_is_the_least_that_silences_enough() -> None:
    x = torch.tensor([0.5, -1.0, 2.0, 0.0, 4.0])
    sizes = Magnitudes(x)
    limits = sizes.thresholds([0.2, 0.21, 0.6, 0.99])
    assert limits.tolist() == [0.0, 0.5, 1.0, 4.0]
    silent, held, lost = sizes.up_to(torch.tensor([0.0, 1.0, 1.5, 9.0], dtype=torch.float64)).T
    assert silent.tolist() == [0.2, 0.6, 0.6, 1.0]
    assert held.tolist() == pytest.approx([0, 0.2, 0.2, 1])
    assert lost.tolist() == pytest.approx([0, 1.25 / 21.25, 1.25 / 21.25, 1])
    assert Magnitudes(torch.zeros(3)).up_to(torch.zeros(1))[0].isnan().tolist() == [False, True, True]


def test_a_rotation_keeps_lengths_and_takes_sparsity_away() -> None:
    turn = rotation(64, 0)
    torch.testing.assert_close(turn @ turn.T, torch.eye(64, dtype=torch.float64))
    turned = measures(torch.eye(64, dtype=torch.float64) @ turn).mean(0)
    assert 0.3 < turned[0] < 0.5  # a Gaussian's is sqrt(2) - 1
    assert rotation(64, 0).equal(turn) and not rotation(64, 1).equal(turn)


def test_columns_have_the_intervals_of_each_alone() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random((9, 3)), generator.random((9, 3)) + 0.1
    found = bootstrap_columns(a, b, seed=4, n_resamples=300)
    for i in range(3):
        alone = bootstrap_ratio(a[:, i], b[:, i], seed=4, n_resamples=300)
        assert (found.value[i], found.low[i], found.high[i]) == pytest.approx(alone[1:])
    labels = ["a", "a", "b", "c", "d", "d", "e", "f", "g"]
    grouped = bootstrap_columns(a, seed=4, n_resamples=300, groups=labels)
    alone = bootstrap_mean(a[:, 0], seed=4, n_resamples=300, groups=labels)
    assert (grouped.value[0], grouped.low[0], grouped.high[0]) == pytest.approx(alone[1:])
    single = bootstrap_columns(a[:1], seed=0)
    assert single.value.tolist() == a[0].tolist() and np.isnan(single.low).all()
    assert np.isnan(bootstrap_columns(a, 0 * b, seed=0, n_resamples=100).value).all()


def test_the_step_gives_means_over_prompts_of_what_the_sites_hold() -> None:
    model = nano("mamba")
    tables = run_step("sparsity", model, ITEMS, sites=("mixer_out", "mixer.x"), targets=(0.8,), resamples=100)
    values, held, lost, channels = [], [], [], []
    for item in ITEMS:  # one prompt at a time, so without padding
        with torch.no_grad(), model.capture("blocks.1.mixer.x") as seen:
            model(torch.tensor([item.prompt]))
        x = seen["blocks.1.mixer.x"][0]
        channels.append(x.numpy())
        values.append(measures(x).mean(0).numpy())
        size = np.sort(np.abs(x.numpy()).ravel())
        held.append([size[: math.ceil(p / 100 * len(size))].sum() / size.sum() for p in PERCENTILES])
        lost.append([(size[size <= limit] ** 2).sum() / (size**2).sum() for limit in FIXED.values()])

    def rows(part: str, **where: object) -> list[dict[str, object]]:
        where |= {"layer": 1, "site": "mixer.x"}
        return [row for row in tables[part].to_pylist() if all(row[key] == value for key, value in where.items())]

    measured = rows("measures")
    assert [row["measure"] for row in measured] == list(MEASURES)
    np.testing.assert_allclose([row["value"] for row in measured], np.mean(values, 0))
    assert all(row["value_low"] < row["value"] < row["value_high"] for row in measured)  # type: ignore[operator]
    np.testing.assert_allclose([row["held"] for row in rows("percentiles", of="magnitude")], np.mean(held, 0))
    variance = np.sort(np.concatenate(channels).var(0))
    expected = [variance[math.ceil(p / 100 * len(variance)) - 1] for p in PERCENTILES]
    np.testing.assert_allclose([row["value"] for row in rows("percentiles", of="variance")], expected)
    (target,) = rows("thresholds", rule="target")
    assert 0.8 <= target["silent"] < 0.81  # type: ignore[operator]
    fixed = [row for name in FIXED for row in rows("thresholds", rule=name)]
    np.testing.assert_allclose([row["lost"] for row in fixed], np.mean(lost, 0))


def test_silent_sites_and_broken_prompts_say_so() -> None:
    model = nano("mamba")
    with torch.no_grad():
        model.get_submodule("backbone.layers.0.mixer.out_proj").weight.zero_()  # type: ignore[operator]
    tables = run_step("sparsity", model, ITEMS, sites=("mixer_out",), resamples=100)
    for row in tables["measures"].to_pylist():
        assert row["status"] == ("not_applicable" if row["layer"] == 0 else "ok")
        if row["layer"] == 0:
            assert row["reason"] == "all values are zero" and row["value"] is None and row["n_zero_tokens"] > 0
    with torch.no_grad():
        model.backbone.embeddings.weight.fill_(float("nan"))
    for table in run_step("sparsity", model, ITEMS, sites=("mixer_out",), resamples=100).values():
        assert set(table["status"].to_pylist()) == {"model_nonfinite"}
