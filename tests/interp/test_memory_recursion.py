"""Delta as modulator: planted inputs that explain all, a Delta that does modulate, and the states that decoding has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.interp.engine.batches import Item
from mplat.interp.methods.token_correlation import correlation, ranked
from mplat.interp.steps.memory_recursion import modulation

T, U = 400, 12


def planted(through_delta: float) -> dict[str, float]:
    """Delta and outcome both follow the input; through_delta: how much of the outcome is Delta's own."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(size=(T, U)))
    own = rng.normal(size=(T, U))
    delta = np.exp(np.log(size) + own)
    outcome = np.exp(np.log(size) + through_delta * own + rng.normal(size=(T, U)))
    return modulation(delta, outcome, [size], rng)


def test_a_correlation_by_the_input_alone_vanishes_when_it_is_held_fixed() -> None:
    found = planted(0.0)
    assert found["plain"] > 0.4 and abs(found["partial"]) < 0.03
    assert found["explained"] == pytest.approx(found["plain"] - found["partial"])


def test_a_delta_that_modulates_is_found_beside_shuffled_tokens() -> None:
    found = planted(1.0)
    assert found["partial"] > 0.6 and abs(found["shuffled"]) < 0.05
    assert min(found["partial_units"]) > 0.5


def test_the_partial_correlation_is_that_of_residuals_of_ranks() -> None:
    rng = np.random.default_rng(1)
    x, y, a, b = (rng.normal(size=(30, 3)) for _ in range(4))
    y = y + x**3 + a
    found = correlation(x, y, [a, b])
    for u in range(3):
        given = np.column_stack([ranked(a)[:, u], ranked(b)[:, u]])
        left, right = (r - given @ np.linalg.lstsq(given, r, rcond=None)[0] for r in (ranked(x)[:, u], ranked(y)[:, u]))
        assert found[u] == pytest.approx(np.corrcoef(left, right)[0, 1])
    np.testing.assert_allclose(ranked([[3.0], [1.0], [3.0], [0.0]])[:, 0] + 2.5, [3.5, 2, 3.5, 1])  # ties share
    assert correlation(x, np.exp(x)) == pytest.approx(np.ones(3))
    assert np.isnan(correlation(x, np.ones((30, 1)))).all() and np.isnan(correlation(x, y, [x])).all()
    assert np.isnan(correlation(x[:7], y[:7])).all()


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_the_step_correlates_the_states_that_decoding_has(arch: str) -> None:
    model = nano(arch)
    (item,) = [Item("a", token_items(1)[0].prompt * 3, (1,))]
    rows = run_step("memory_recursion", model, [item], resamples=100)["units"].to_pylist()
    state, states = None, []
    with torch.no_grad(), model.capture("blocks.1.mixer.delta") as seen:
        model(torch.tensor([item.prompt]))
        delta = seen["blocks.1.mixer.delta"][0].numpy()
    with torch.no_grad():
        for token in item.prompt:
            _, state = model(torch.tensor([[token]]), state=state, return_state=True)
            states.append(state.layers[1]["h"][0].numpy())
    moved = np.diff(np.stack([np.zeros_like(states[0]), *states]), axis=0)
    size = np.linalg.norm(moved.reshape(len(moved), delta.shape[1], -1), axis=-1)
    expected = correlation(delta, size)
    found = [r["plain"] for r in rows if (r["layer"], r["outcome"]) == (1, "state_change")]
    assert found == pytest.approx(expected.tolist(), abs=1e-9)


def test_a_filter_without_delta_says_so() -> None:
    rows = run_step("memory_recursion", nano("striped_hyena"), token_items(2), resamples=100)["layers"].to_pylist()
    assert {(row["status"], row["partial"]) for row in rows} == {("not_applicable", None)}
