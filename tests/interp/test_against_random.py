"""Planted channels stand out from random ones; channels that attribution picked from noise do as often as announced."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from interp_jobs import run_step, token_items
from mplat.core.errors import UsageError
from mplat.interp.engine.batches import halves
from mplat.interp.methods.against_random import ABOVE, BELOW, NEITHER, against_random, verdicts
from scipy import stats

CHANNELS, SIZE, PROMPTS, DRAWS = 60, 6, 24, 8


def p_of_picked(seed: int, *, planted: float = 0.0, spread: float = 1.0, held_out: bool = True) -> float:
    """p of the channels that look strongest in a noisy measurement, each prompt's own unless `held_out`.

    Channels differ in what they cost by `spread`; the first ones cost `planted` more.
    """
    generator = np.random.default_rng(seed)
    cost = -spread * generator.random(CHANNELS)
    cost[:SIZE] -= planted
    of_prompts = cost + generator.standard_normal((PROMPTS, CHANNELS))
    # what chooses sees the prompts' own noise, and of what the channels cost only what is planted
    seen = of_prompts - cost
    seen[:, :SIZE] -= planted
    first = np.arange(PROMPTS) % 2 == 0
    effects, chosen = np.empty(PROMPTS), set()
    for half in (first, ~first):
        attribution = seen[~half if held_out else half].mean(0)
        best = np.argsort(-np.abs(attribution) if held_out else attribution)[:SIZE]
        effects[half] = of_prompts[half][:, best].sum(1)
        chosen |= set(best.tolist())
    others = [c for c in range(CHANNELS) if c not in chosen]
    random = [of_prompts[:, generator.choice(others, SIZE, replace=False)].sum(1) for _ in range(DRAWS)]
    p = against_random(effects, random, seed=seed, n_resamples=400).p
    assert p is not None
    return p


def test_halves_are_disjoint_whole_and_do_not_follow_the_order() -> None:
    items = token_items(31)
    first, second = halves(items)
    assert (len(first), len(second)) == (16, 15) and not first & second
    assert first | second == {item.id for item in items} and halves(items[::-1]) == (first, second)
    position = [i for i, item in enumerate(items) if item.id in first]
    assert 5 < np.mean(position) < 25


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_channels_picked_from_noise_stand_out_no_more_often_than_said(spread: float) -> None:
    """Whether all channels cost the same, or each another amount, so that any two sets of them differ."""
    runs = 300
    found = np.array([p_of_picked(seed, spread=spread) for seed in range(runs)])
    assert np.mean(found <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_channels_judged_on_the_prompts_they_were_picked_on_would_stand_out_by_accident() -> None:
    assert np.mean([p_of_picked(seed, spread=0.0, held_out=False) <= 0.05 for seed in range(100)]) > 0.5


def test_planted_channels_stand_out() -> None:
    assert np.mean([p_of_picked(seed, planted=4.0, spread=0.5) <= 0.05 for seed in range(100)]) > 0.95


def test_the_numbers_are_those_of_the_formulas() -> None:
    generator = np.random.default_rng(0)
    mine, others = generator.standard_normal(12) - 2.0, generator.standard_normal((5, 12))
    found = against_random(mine, others, seed=0)
    assert found.difference == pytest.approx(mine.mean() - others.mean())
    means = others.mean(1)
    t = (mine.mean() - means.mean()) / (means.std(ddof=1) * np.sqrt(1 + 1 / 5))
    assert found.p_draws == pytest.approx(2 * stats.t.sf(abs(t), df=4))
    assert found.p == max(found.p_draws, found.p_prompts)  # type: ignore[type-var]
    assert found.low is not None and found.high is not None and found.difference is not None
    assert found.low < found.difference < found.high < 0


def test_a_verdict_needs_two_draws_two_prompts_and_a_small_p() -> None:
    clear = np.full((4, 10), -0.1) + 0.01 * np.arange(4)[:, None]
    strong, weak = (against_random(np.full(10, value) + 1e-3 * np.arange(10), clear, seed=0) for value in (-5.0, 5.0))
    same = against_random(clear[0] + 0.015, clear, seed=0)
    one_draw, one_prompt = against_random(clear[0], clear[:1], seed=0), against_random([0.0], [[1.0], [2.0]], seed=0)
    assert one_draw.p is None and one_prompt.p is None
    found = [strong, weak, same, one_draw, one_prompt]
    assert verdicts(found, [test.p for test in found], 0.95) == [ABOVE, BELOW, NEITHER, None, None]
    silent = against_random(np.full(10, -1.0), np.zeros((3, 10)), seed=0)
    assert silent.p_draws == 0.0 and against_random(np.zeros(10), np.zeros((3, 10)), seed=0).p == 1.0
    with pytest.raises(UsageError, match="do not fit"):
        against_random([1.0, 2.0], [[1.0]], seed=0)


def test_attribution_is_also_given_for_either_half_of_the_prompts() -> None:
    from model_zoo import nano

    model, items = nano("mamba"), token_items(9)
    whole = run_step("attribution", model, items)[""].to_pylist()
    for half, name in zip(halves(items), ("attribution_first", "attribution_second"), strict=True):
        alone = run_step("attribution", model, [item for item in items if item.id in half], batch_size=2)[""]
        np.testing.assert_allclose([r[name] for r in whole], alone["attribution"].to_numpy(), rtol=1e-4, atol=1e-6)
    single = run_step("attribution", model, [dataclasses.replace(items[0], id="only")])[""].to_pylist()
    assert {row["attribution_second"] for row in single} == {None} and single[0]["attribution_first"] is not None
