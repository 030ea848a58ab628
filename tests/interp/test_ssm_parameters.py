"""Distributions and stability of a recurrence's parameters: hand values, a fixed Delta, a Delta of one direction."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.interp.steps.ssm_parameters import directions, distribution, stability_of
from mplat.interp.steps.text_consistency import _of_output  # pyright: ignore[reportPrivateUsage]

ITEMS = token_items(3)


def test_hand_values_of_a_distribution() -> None:
    found = distribution(np.array([0.0, 0.0, 0.0, 4.0]))
    assert (found["mean"], found["std"], found["q50"], found["min"], found["max"]) == (1.0, math.sqrt(3), 0.0, 0.0, 4.0)
    assert found["skewness"] == pytest.approx(2 / math.sqrt(3)) and found["kurtosis"] == pytest.approx(7 / 3 - 3)
    still = distribution(np.full(5, 0.1))
    assert (still["std"], still["skewness"]) == (0.0, None)


def test_hand_values_of_stability() -> None:
    rate, delta = torch.tensor([[1.0, 4.0]]), torch.tensor([[0.5], [0.001], [2.0]])
    found = stability_of(rate, delta, 0.01)
    each = np.array([0.5, 2.0, 0.001, 0.004, 2.0, 8.0])
    assert found["spectral_radius"] == pytest.approx(math.exp(-0.001))
    assert found["margin_min"] == pytest.approx(1 - math.exp(-0.001), rel=1e-4)
    assert found["marginal"] == pytest.approx(2 / 6) and found["erased"] == pytest.approx(1 / 6)  # exp(-8) < .01
    assert found["long_run"] == pytest.approx(math.exp(-2.501 / 3))
    assert found["time_constant_q50"] == pytest.approx(1 / np.quantile(each, 0.5))
    assert found["time_constant_q95"] > found["time_constant_q05"]


def test_one_direction_is_one_direction_and_shuffled_channels_are_several() -> None:
    rng = np.random.default_rng(0)
    line = rng.standard_normal((50, 1)) @ rng.standard_normal((1, 10)) + 3
    found = directions(line, rng)
    assert found["effective_rank"] == pytest.approx(1.0) and found["first_share"] == pytest.approx(1.0)
    assert found["effective_rank_shuffled"] > 7
    assert directions(np.ones((5, 4)), rng) == {}


def test_of_a_fixed_delta_all_follows_from_it() -> None:
    model = nano("mamba2")
    with torch.no_grad():
        for block in model.blocks:
            projection, units = block.mixer.get_parameter("in_proj.weight"), len(block.mixer.get_parameter("dt_bias"))
            projection[len(projection) - units :] = 0
    tables = run_step("ssm_parameters", model, ITEMS, resamples=100)
    (row, _) = tables["stability"].to_pylist()
    place = model.blocks[0].recurrences()[0]
    with torch.no_grad():
        rate = (
            place.A.real.abs()[:, 0] * torch.nn.functional.softplus(model.blocks[0].mixer.get_parameter("dt_bias"))
        ).numpy()
    assert row["stable"] and row["n_prompts"] == 3
    assert row["spectral_radius"] == pytest.approx(math.exp(-rate.min()))
    assert row["long_run"] == pytest.approx(row["spectral_radius"]) and row["spectral_radius_low"] is not None
    assert row["time_constant_q50"] == pytest.approx(1 / np.quantile(rate, 0.5))
    (delta,) = [r for r in tables["parameters"].to_pylist() if (r["layer"], r["quantity"]) == (0, "delta")]
    assert delta["effective_rank"] is None and delta["varies"]
    (constant,) = [r for r in tables["parameters"].to_pylist() if (r["layer"], r["quantity"]) == (0, "A")]
    assert constant["mean"] == pytest.approx(float(place.A.real.mean())) and constant["mean_low"] is None


def test_a_filter_has_no_delta_and_a_broken_model_no_numbers() -> None:
    tables = run_step("ssm_parameters", nano("striped_hyena"), ITEMS, resamples=100)
    quantities = {r["quantity"]: r["status"] for r in tables["parameters"].to_pylist() if r["layer"] == 0}
    assert quantities == dict.fromkeys(("A", "D"), "ok") | dict.fromkeys(("delta", "B", "C"), "not_applicable")
    model = nano("mamba2")
    with torch.no_grad():
        model.backbone.embeddings.weight[:] = float("nan")
    rows = run_step("ssm_parameters", model, ITEMS, resamples=100)["stability"].to_pylist()
    assert {(row["status"], row["spectral_radius"], row["n_nonfinite"]) for row in rows} == {
        ("model_nonfinite", None, 3)
    }


def test_a_text_keeps_what_it_is_in_both_halves() -> None:
    """Of texts that repeat one token, each its own, halves agree far beyond the kinds, which are drawn at random."""
    from mplat.interp.engine.batches import Item

    items = [Item(f"t{i}", (3 * i + 1,) * 24, (1,), kind=f"k{i % 2}") for i in range(8)]
    rows = run_step("text_consistency", nano("mamba2"), items, resamples=100, units=2)
    norm = {r["by"]: r for r in rows["consistency"].to_pylist() if (r["layer"], r["measure"]) == (0, "norm")}
    assert norm["halves"]["icc"] > 0.6 > norm["kind"]["icc"] and norm["halves"]["p_permuted"] < 0.05
    assert norm["halves"]["icc_low"] <= norm["halves"]["icc"] <= norm["halves"]["icc_high"]
    text = next(r for r in rows["texts"].to_pylist() if (r["id"], r["layer"], r["measure"]) == ("t0", 0, "norm"))
    assert text["whole"] == pytest.approx((text["first"] + text["second"]) / 2)
    assert {r["status"] for r in rows["consistency"].to_pylist() if r["by"] == "group"} == {"not_applicable"}


def test_hand_values_of_a_text() -> None:
    x = torch.tensor([[3.0, 0, 0, 0], [0, -3, 0, 0], [0, 0, 3, 0]], dtype=torch.float64)
    found = _of_output(x)
    assert found["norm"] == 3.0 and found["sparsity"] == pytest.approx(1.0)
    assert found["effective_rank"] == pytest.approx(2 / 3)  # an equilateral triangle
    assert found["autocorrelation"] == pytest.approx(-0.5)
