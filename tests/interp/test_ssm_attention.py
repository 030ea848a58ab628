"""Attention of a recurrence with a fixed decay is geometric, and a Delta that does not vary says nothing of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.interp.engine.batches import Item
from mplat.interp.methods.attention_shape import MEASURES, attention_shape, by_distance, shares
from mplat.interp.methods.recurrences import Scan
from mplat.interp.steps.ssm_attention import DISTANCES, shape_of

T, Q = 60, 0.7


def fixed(decay: float) -> Scan:
    """One unit that keeps `decay` of its state a token and writes and reads alike at all of them."""
    one = torch.ones(1, T, 1, dtype=torch.float64)
    A = torch.tensor([[math.log(decay)]], dtype=torch.float64)
    return Scan(one, one, A, one[..., None], one[..., None], torch.zeros_like(one))


def test_a_fixed_decay_has_geometric_attention() -> None:
    shape, distances = shape_of(fixed(Q), torch.tensor([0]))
    i = np.arange(T)
    np.testing.assert_allclose(shape["strength"][:, 0], (1 - Q ** (i + 1)) / (1 - Q))
    for t in (1, 5, T - 1):
        share = Q ** np.arange(t + 1) * (1 - Q) / (1 - Q ** (t + 1))
        assert shape["entropy"][t, 0] == pytest.approx(-(share * np.log(share)).sum() / math.log(t + 1))
        assert shape["reach"][t, 0] == pytest.approx((share * np.arange(t + 1)).sum())
    closed = -math.log(1 - Q) - Q * math.log(Q) / (1 - Q)
    assert shape["entropy"][-1, 0] * math.log(T) == pytest.approx(closed, rel=1e-6)
    assert shape["change"][-1, 0] == pytest.approx(1 - Q, rel=1e-6)  # all shares move on by one token
    assert np.isnan(shape["entropy"][0, 0]) and np.isnan(shape["change"][0, 0])
    assert sum(distances) == pytest.approx(1.0) and distances[0] > distances[1] > distances[-1]


def test_a_state_that_forgets_nothing_reads_all_alike_and_one_that_forgets_all_one_token() -> None:
    whole, _ = shape_of(fixed(1 - 1e-12), torch.tensor([0]))
    np.testing.assert_allclose(whole["entropy"][1:, 0], 1.0, atol=1e-9)
    np.testing.assert_allclose(whole["reach"][:, 0], np.arange(T) / 2, atol=1e-8)
    one, _ = shape_of(fixed(1e-300), torch.tensor([0]))
    assert one["entropy"][1:].max() < 1e-9 and one["change"][1:] == pytest.approx(np.ones((T - 1, 1)))


def test_signs_do_not_count_and_hand_values() -> None:
    weights = torch.tensor([[[2.0, 0, 0], [-1, 3, 0], [0, 0, 0]]])
    shape = attention_shape(weights)
    assert shape["strength"][:, 0].tolist() == [2, 4, 0]
    assert shape["reach"][1, 0] == 0.25 and shape["change"][1, 0] == 0.75
    assert np.isnan(shape["entropy"][2, 0]) and set(shape) == set(MEASURES)
    two = attention_shape(weights[:, :2, :2])
    assert two["received"][:, 0].tolist() == [(1 + 0.25) / 2, 0.75]
    assert by_distance(shares(weights[:, :2, :2]), DISTANCES)[:2] == [(1 + 0.75) / 2, 0.25 / 2]


def test_of_a_model_whose_delta_is_fixed_delta_says_nothing_and_the_shape_is_the_closed_one() -> None:
    model = nano("mamba")
    with torch.no_grad():
        for block in model.blocks:
            block.mixer.dt_proj.weight.zero_()
    items = [Item(item.id, item.prompt * 2, item.answer) for item in token_items(4)]
    tables = run_step("ssm_attention", model, items, units=3, resamples=100)
    found = {(r["component"], r["measure"]): r for r in tables["correlations"].to_pylist() if r["layer"] == 0}
    assert {found["delta", name]["status"] for name in MEASURES} == {"not_applicable"}
    assert found["C", "strength"]["status"] == "ok" and found["C", "strength"]["partial"] > 0.3
    assert abs(found["C", "strength"]["shuffled"]) < 0.3
    shares_at = [r for r in tables["vectors"].to_pylist() if r["layer"] == 0 and r["distance"] in (0, 1)]
    assert all(0 < r["share"] < 1 for r in shares_at)


def test_a_block_without_a_scan_says_so() -> None:
    tables = run_step("ssm_attention", nano("hyena"), token_items(2), resamples=100)
    for table in tables.values():
        assert {row["status"] for row in table.to_pylist()} == {"not_applicable"}
