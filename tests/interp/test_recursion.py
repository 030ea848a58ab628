"""Autocorrelations, changes and layers against closed forms, hand values and states of decoding token by token."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.interp.engine.batches import Item
from mplat.interp.methods.autocorrelation import autocorrelation, expected_of_shuffled
from mplat.interp.steps.recursion import compared
from mplat.models import LanguageModel

ITEMS = [Item(item.id, item.prompt * 2, item.answer) for item in token_items(4)]


def test_hand_values_and_weights_by_variance() -> None:
    one, two = autocorrelation([[1.0], [2.0], [3.0], [4.0]], [1, 2, 3])
    assert (one.lag, one.pooled) == (1, pytest.approx(1 / 3)) and two.pooled == pytest.approx(-0.6)
    x = np.array([[1.0, 10, 7], [2, -10, 7], [3, 10, 7], [4, -10, 7]])  # r(1): 1/3, -1, and a constant
    (both,) = autocorrelation(x, [1])
    assert both.by_channel == pytest.approx(-1 / 3)
    assert both.pooled == pytest.approx((1.25 / 3 - 100) / 101.25)
    assert autocorrelation(np.ones((5, 2)), [1]) == []


def test_an_ar1_process_has_powers_of_its_coefficient() -> None:
    rng, phi = np.random.default_rng(0), 0.8
    x = np.zeros((6000, 8))
    for t in range(1, len(x)):
        x[t] = phi * x[t - 1] + rng.standard_normal(8)
    for found in autocorrelation(x, [1, 2, 4, 8]):
        assert (found.pooled, found.by_channel) == pytest.approx((phi**found.lag,) * 2, abs=0.03)


def test_vectors_in_random_order_have_what_is_said_at_every_lag() -> None:
    x = np.random.default_rng(1).standard_normal((6, 2)) ** 3
    orders = [autocorrelation(x[list(order)], [1, 2, 3]) for order in permutations(range(6))]
    means = np.mean([[(one.pooled, one.by_channel) for one in found] for found in orders], 0)
    np.testing.assert_allclose(means, expected_of_shuffled(6), atol=1e-12)


def test_two_layers_hand_values() -> None:
    x = np.array([[3.0, 4.0], [0.0, 2.0], [4.0, 3.0]])
    y = np.array([[6.0, 8.0], [0.0, -4.0], [8.0, 6.0]])
    found = compared(x, y)
    assert found["growth"] == pytest.approx(2.0) and found["cosine"] == pytest.approx(1 / 3)
    a, b = (v / np.linalg.norm(v, axis=1)[:, None] for v in (x, y))
    assert found["cosine_shuffled"] == pytest.approx(np.mean([s @ t for s in a for t in b]))
    expected = [np.corrcoef(x[:, c], y[:, c])[0, 1] for c in range(2)]
    assert found["stabilities"] == pytest.approx(expected) and found["stability"] == pytest.approx(np.mean(expected))


def decoded(model: LanguageModel, prompt: tuple[int, ...], layer: int) -> np.ndarray:
    """States (T, n) from reading one token after the other."""
    states, state = [], None
    with torch.no_grad():
        for token in prompt:
            _, state = model(torch.tensor([[token]]), state=state, return_state=True)
            states.append(state.layers[layer]["h"][0].flatten().numpy())
    return np.stack(states)


@pytest.mark.parametrize("arch", ["mamba2", "striped_hyena"])
def test_the_step_measures_the_states_that_decoding_has(arch: str) -> None:
    model = nano(arch)
    tables = run_step("recursion", model, ITEMS, lags=[1, 3], resamples=100)
    states = [decoded(model, item.prompt, 0) for item in ITEMS]
    moved = [np.linalg.norm(np.diff(h, axis=0), axis=1).sum() / np.linalg.norm(h[1:], axis=1).sum() for h in states]
    change = next(row for row in tables["changes"].to_pylist() if (row["layer"], row["site"]) == (0, "mixer.h"))
    assert change["state_change"] == pytest.approx(np.mean(moved), rel=1e-6) and change["n_prompts"] == 4
    for row in tables["autocorrelation"].to_pylist():
        if (row["layer"], row["site"]) == (0, "mixer.h"):
            known = [autocorrelation(h, [row["lag"]])[0] for h in states]
            assert row["value"] == pytest.approx(np.mean([one.pooled for one in known]), abs=1e-6)
            assert row["value_low"] <= row["value"] <= row["value_high"]
    residual = [row for row in tables["layers"].to_pylist() if row["site"] == "resid_post"]
    assert [(row["layer"], row["next"], row["cosine"] is None) for row in residual] == [(0, 1, False), (1, None, True)]


def test_blocks_without_a_state_short_texts_and_broken_models_say_so() -> None:
    rows = run_step("recursion", nano("hyena"), ITEMS, lags=[1], resamples=100)["changes"].to_pylist()
    assert {(row["status"], row["r"]) for row in rows} == {("not_applicable", None)}
    short = run_step("recursion", nano("mamba2"), [Item("short", (3, 5), (1,))], lags=[4], resamples=100)
    assert {row["status"] for row in short["autocorrelation"].to_pylist()} == {"not_applicable"}
    model = nano("mamba2")
    with torch.no_grad():
        model.backbone.embeddings.weight[7] = float("nan")
    broken = run_step("recursion", model, [Item("broken", (1, 7) * 8, (1,)), *ITEMS], lags=[1], resamples=100)
    assert {(r["status"], r["n_prompts"], r["n_nonfinite"]) for r in broken["changes"].to_pylist()} == {("ok", 4, 1)}
