"""A planted half-distance is found with its interval; without an effect none is claimed more often than announced."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from mplat.core.errors import UsageError
from mplat.interp.methods.fading import fading, same_prompts

DISTANCES = (0, 1, 2, 4, 8, 16, 32)


def curves(n: int, peak: float, half: float, seed: int, noise: float = 0.3) -> np.ndarray:
    """Effects of n prompts, fallen to one half at `half` tokens; a prompt's own noise and that of its distances."""
    generator = np.random.default_rng(seed)
    mean = peak * 2.0 ** (-np.array(DISTANCES) / half)
    own = generator.standard_normal((n, 1))
    return mean + noise * (own + generator.standard_normal((n, len(DISTANCES))))


@pytest.mark.parametrize("n", [8, 24])
def test_without_an_effect_one_is_claimed_in_one_of_twenty_cases(n: int) -> None:
    runs = 400
    found = [fading(curves(n, 0.0, 4.0, seed), DISTANCES, seed=seed, n_resamples=400) for seed in range(runs)]
    claimed = np.mean([f.p is not None and f.p <= 0.05 for f in found])
    error = np.sqrt(0.05 * 0.95 / runs)
    assert 0.05 - 3 * error <= claimed <= 0.05 + 3 * error
    # what is shown for every curve, a largest mean and the distances with half of it, exists nearly always
    assert np.mean([f.half is not None for f in found]) > 0.6


def test_a_planted_half_distance_is_found_and_its_interval_covers_it() -> None:
    found = [fading(curves(24, 1.0, 4.0, seed), DISTANCES, seed=seed) for seed in range(100)]
    assert all(f.p is not None and f.p < 0.001 for f in found)
    assert np.mean([f.half in (2, 4) for f in found]) > 0.8  # at 4 the mean is half of the maximum, give or take noise
    covered = [f.low is not None and f.low <= 4 and (f.high is None or f.high >= 2) for f in found]
    assert np.mean(covered) > 0.9


def test_the_p_value_is_the_share_of_all_signs_whose_best_distance_is_as_good() -> None:
    x = curves(7, 0.2, 4.0, seed=3)
    scale = np.sqrt((x**2).sum(0))
    best = [((np.array(signs)[:, None] * x).sum(0) / scale).max() for signs in product((1, -1), repeat=7)]
    assert fading(x, DISTANCES, seed=0).p == pytest.approx(np.mean(np.array(best) >= best[0] - 1e-12), abs=1e-12)
    # many prompts: drawn signs say the same, up to their number
    many = np.concatenate([x] * 3)
    drawn, more = (fading(many, DISTANCES, seed=seed, n_resamples=4000).p for seed in (0, 1))
    assert drawn == pytest.approx(more, abs=0.03)


@pytest.mark.parametrize(
    ("means", "half", "censored"),
    [
        ([0.8, 0.4, 0.2, 0.1], 1, False),  # exactly half counts
        ([0.8, 0.3, 0.7, 0.7], 0, False),  # what comes back later was gone before
        ([0.1, 0.8, 0.5, 0.1], 2, False),  # from the maximum on
        ([0.8, 0.7, 0.6, 0.5], 4, True),
        ([0.0, 0.0, 0.0, 0.3], 4, True),
        ([-0.5, -0.1, -0.2, 0.0], None, None),
    ],
)
def test_the_half_distance_is_the_last_before_the_fall_below_half(
    means: list[float], half: int | None, censored: bool | None
) -> None:
    found = fading([means] * 6, (0, 1, 2, 4), seed=0)
    assert (found.half, found.censored) == (half, censored)
    if half is not None:
        assert (found.low, found.high) == (half, None if censored else half)


def test_one_prompt_has_a_curve_and_no_interval_and_none_has_nothing() -> None:
    one = fading([[0.4, 0.1]], (0, 3), seed=0)
    assert (one.n, one.p, one.half, one.low, one.high) == (1, None, 0, None, None)
    assert fading(np.zeros((0, 2)), (0, 3), seed=0) == (0, None, None, None, None, None, None)
    assert fading(np.zeros((5, 2)), (0, 3), seed=0).p == 1.0


def test_prompts_and_distances_are_chosen_by_length_alone() -> None:
    reach = {"a": 2, "b": 8, "c": 8, "d": 64}
    effects = {id_: {d: 0.0 for d in (0, 2, 8, 64) if d <= far} for id_, far in reach.items()}
    assert same_prompts(effects) == (("b", "c", "d"), (0, 2, 8))
    assert same_prompts({}) == ((), ())


@pytest.mark.parametrize(
    ("effects", "distances"), [([[1.0]], (0, 1)), ([[1.0, 2.0]], (1, 0)), ([[np.nan, 0.0]], (0, 1)), ([[]], ())]
)
def test_what_is_no_curve_is_refused(effects: list[list[float]], distances: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        fading(effects, distances, seed=0)
