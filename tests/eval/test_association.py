"""What only the sort of question explains is no association; what goes with the outcome within a sort is found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from mplat.core.errors import UsageError
from mplat.scoring.statistics import correlations, groups_differ_p

KINDS = np.repeat(np.arange(4), 15)
HARDNESS = np.array([0.9, 0.6, 0.4, 0.1])  # share of right answers by kind


def confounded(seed: int, planted: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A feature and right answers that both follow the kind of question; within one the feature adds `planted`."""
    generator = np.random.default_rng(seed)
    own = generator.standard_normal(len(KINDS))
    odds = np.log(HARDNESS / (1 - HARDNESS))[KINDS] + planted * own
    return -2.0 * KINDS + own, (generator.random(len(KINDS)) < 1 / (1 + np.exp(-odds))).astype(float)


def test_a_confounded_feature_is_claimed_as_often_as_announced_and_a_planted_one_found() -> None:
    runs = 300
    pooled, within, found = [], [], []
    for seed in range(runs):
        x, y = confounded(seed)
        pooled.append(correlations([x], y, seed=seed, n_draws=199)[0].p)
        within.append(correlations([x], y, seed=seed, n_draws=199, strata=KINDS.tolist())[0].p)
        found.append(correlations([confounded(seed, 3.0)[0]], confounded(seed, 3.0)[1], seed=seed, n_draws=199,
                                  strata=KINDS.tolist())[0].p)  # fmt: skip
    assert np.mean(np.array(pooled) <= 0.05) > 0.95
    assert abs(np.mean(np.array(within) <= 0.05) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / runs)
    assert np.mean(np.array(found) <= 0.05) > 0.9


def test_a_covariate_that_drives_both_sides_is_taken_out() -> None:
    runs, p, naive = 300, [], []
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        length = generator.standard_normal(60)
        x, y = 2 * length + generator.standard_normal(60), length + generator.standard_normal(60)
        p.append(correlations([x], y, seed=seed, n_draws=199, strata=KINDS.tolist(), given=[length, 3 * length])[0].p)
        naive.append(correlations([x], y, seed=seed, n_draws=199, strata=KINDS.tolist())[0].p)
    assert abs(np.mean(np.array(p) <= 0.05) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / runs) and np.mean(naive) < 0.01


def test_the_correlation_within_strata_is_that_of_the_regressions_residuals() -> None:
    x, y = confounded(3, planted=1.0)
    length = np.random.default_rng(7).standard_normal(60) + KINDS
    (found,) = correlations([x], y, seed=0, n_draws=100, strata=KINDS.tolist(), given=[length])
    design = np.column_stack([KINDS[:, None] == np.arange(4), length])
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    assert found.r_within == pytest.approx(np.corrcoef(*left)[0, 1])
    assert found.r == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_the_p_value_within_strata_is_the_share_of_all_pairings_inside_them() -> None:
    x, y = np.array([0.1, 0.4, 0.2, 5.9, 5.7, 6.6]), np.array([1.0, 3.0, 2.0, 8.0, 9.0, 8.5])
    cx, cy = x - np.repeat([x[:3].mean(), x[3:].mean()], 3), y - np.repeat([y[:3].mean(), y[3:].mean()], 3)
    pairings = [[*a, *b] for a in itertools.permutations(range(3)) for b in itertools.permutations(range(3, 6))]
    exact = np.mean([abs(cx @ cy[list(of)]) >= abs(cx @ cy) - 1e-12 for of in pairings])
    (found,) = correlations([x], y, seed=1, n_draws=20_000, strata=list("aaabbb"))
    assert found.p == pytest.approx(exact, abs=0.02)


def test_what_varies_between_strata_alone_has_no_correlation_within() -> None:
    (found,) = correlations([[0.0, 0.0, 1.0, 1.0]], [1.0, 2.0, 3.0, 5.0], seed=0, strata=[0, 0, 1, 1])
    assert found.r is not None and (found.r_within, found.p) == (None, None)
    (alone,) = correlations([[0.0, 2.0, 1.0]], [1.0, 2.0, 3.0], seed=0, strata=["a", "b", "c"])
    assert (alone.r_within, alone.p) == (None, None)
    explained = np.arange(8.0)
    (nothing_left,) = correlations([2 * explained], explained[::-1] ** 2, seed=0, given=[explained])
    assert (nothing_left.r_within, nothing_left.p) == (None, None)
    with pytest.raises(UsageError, match="one stratum for each"):
        correlations([[0.0, 1.0, 2.0]], [0.0, 1.0, 2.0], seed=0, strata=[1, 2])


def test_groups_that_are_the_kinds_differ_by_no_more_than_the_kinds_do() -> None:
    runs, p, planted = 300, [], []
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        y = (generator.random(60) < HARDNESS[KINDS]).astype(float)
        groups = np.where(generator.random(60) < 0.7, KINDS // 2, generator.integers(0, 2, 60))
        p.append(groups_differ_p(groups.tolist(), y, seed=seed, n_draws=199, strata=KINDS.tolist()))
        right = (generator.random(60) < np.where(groups == generator.permutation(2)[0], 0.8, 0.2)).astype(float)
        planted.append(groups_differ_p(groups.tolist(), right, seed=seed, n_draws=199, strata=KINDS.tolist()))
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert np.mean(np.array(planted) <= 0.05) > 0.85
    assert groups_differ_p([0, 0, 0], [0, 1, 1], seed=0) is None
    assert groups_differ_p([0, 1, 0, 1], [0, 0, 1, 1], seed=0, strata=[0, 0, 1, 1]) is None
    with pytest.raises(UsageError, match="one group for each"):
        groups_differ_p([0, 1], [0.0, 1.0, 0.0], seed=0)
