"""Intervals and p-values against scipy, closed forms and full enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import UsageError
from mplat.scoring.statistics import (
    bootstrap_mean,
    correlations,
    holm,
    mean_interval,
    paired_difference,
    samples,
    sign_flip_p,
    wilson,
)

RNG = np.random.default_rng(4)
SAMPLES = [
    RNG.normal(size=7),
    RNG.exponential(size=40),
    RNG.integers(-1, 2, size=60).astype(float),
    np.array([0.0, 1.0]),
]


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("x", SAMPLES, ids=len)
def test_bootstrap_interval_is_scipys(x, method):
    """The same generator draws the same resamples, so the intervals agree to rounding."""
    theirs = scipy.stats.bootstrap(
        (x,), np.mean, n_resamples=2000, confidence_level=0.9, method=method, rng=np.random.default_rng(11)
    ).confidence_interval
    ours = bootstrap_mean(x, seed=11, confidence=0.9, n_resamples=2000, method=method)
    assert ours.n == len(x) and ours.mean == pytest.approx(x.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)


def test_bootstrap_interval_approaches_the_normal_one():
    x = np.random.default_rng(0).normal(size=400)
    found = bootstrap_mean(x, seed=1)
    half = 1.959964 * x.std(ddof=1) / np.sqrt(len(x))
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.1 * half)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for i in range(200):
        x = rng.binomial(1, 0.4, size=50) - rng.binomial(1, 0.3, size=50)
        found = bootstrap_mean(x, seed=i, n_resamples=500)
        assert found.low is not None and found.high is not None
        hits += found.low <= 0.1 <= found.high
    assert 180 <= hits <= 199


def test_small_blocks_give_the_same_kind_of_interval(monkeypatch):
    """Memory is bounded by drawing in blocks; the blocks do not change what is estimated."""
    x = SAMPLES[1]
    whole = bootstrap_mean(x, seed=5)
    monkeypatch.setattr(samples, "_CELLS_AT_ONCE", 1000)
    assert bootstrap_mean(x, seed=5) == whole


def test_same_seed_same_bits_other_seed_other_interval():
    x = SAMPLES[0]
    assert bootstrap_mean(x, seed=1) == bootstrap_mean(x, seed=1)
    assert bootstrap_mean(x, seed=1) != bootstrap_mean(x, seed=2)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_i3_fewer_than_two_values_give_no_interval_and_no_p(values):
    for found in (bootstrap_mean(values, seed=0), wilson([round(v) for v in values])):
        assert found.n == len(values) and found.low is None and found.high is None
    difference = paired_difference(values, [0.0] * len(values), seed=0)
    assert difference.mean == (values[0] if values else None)
    assert (difference.low, difference.high, difference.p) == (None, None, None)


def exhaustive(d):
    """All 2^n sign assignments in exact order, written out."""
    sums = [
        abs(sum(s * v for s, v in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=len(d))
    ]
    return sum(v >= abs(sum(d)) - 1e-9 for v in sums) / len(sums)


@given(st.lists(st.sampled_from([-1.0, -1 / 3, 0.0, 0.25, 1.0]), min_size=2, max_size=9))
def test_small_samples_are_enumerated(d):
    assert sign_flip_p(d, seed=0) == pytest.approx(exhaustive(d), abs=1e-12)


def test_known_p_values():
    assert sign_flip_p([1.0] * 5, seed=0) == 2 / 32
    assert sign_flip_p([1.0] * 5 + [0.0] * 100, seed=0) == 2 / 32
    assert sign_flip_p([0.0, 0.0, 0.0], seed=0) == 1.0
    assert sign_flip_p([1.0, -1.0], seed=0) == 1.0


def test_drawn_p_value_is_near_the_binomial_one():
    """For differences of -1 and 1 the sign-flip test is the two-sided binomial test."""
    d = [1.0] * 35 + [-1.0] * 15
    exact = scipy.stats.binomtest(35, 50).pvalue
    found = sign_flip_p(d, seed=3, n_draws=100_000)
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / 100_000))
    assert sign_flip_p([1.0] * 60, seed=3, n_draws=999) == 1 / 1000, "never 0"


def test_p_values_of_nothing_are_uniform():
    rng = np.random.default_rng(8)
    p = [sign_flip_p(rng.normal(size=25), seed=i, n_draws=400) for i in range(300)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_holm_is_the_step_down_procedure():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([None, 0.02, None]) == [None, 0.02, None], "a test that was not possible does not count"
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_definition_rejects(p):
    alpha = 0.05
    rejected = set()
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] > alpha / (len(p) - rank):
            break
        rejected.add(i)
    corrected = holm(p)
    assert all(c >= q for c, q in zip(corrected, p, strict=True))
    for i, value in enumerate(corrected):
        assert value is not None
        assert value == pytest.approx(alpha) or (value < alpha) == (i in rejected)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 10), (50, 50), (1, 2)])
def test_wilson_is_scipys(k, n):
    theirs = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    found = wilson([1] * k + [0] * (n - k))
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert found.low is not None and found.mean is not None and found.high is not None
    assert found.low <= found.mean <= found.high


def test_means_of_shares_get_wilsons_interval_and_so_do_values_that_are_mostly_0_or_1():
    assert mean_interval([1, 1, 1, 1], seed=0) == wilson([1, 1, 1, 1])
    shares, nearly = wilson([1, 0] * 20), mean_interval([0.95, 0.05] + [1, 0] * 19, seed=0)
    assert (nearly.low, nearly.high) == pytest.approx((shares.low, shares.high), abs=0.01)


def test_a_mean_of_numbers_has_the_interval_of_its_difference_from_nothing():
    x = np.random.default_rng(0).normal(3, 1, size=30)
    found, moved = mean_interval(x, seed=0), mean_interval(x + 100, seed=0)
    half = scipy.stats.t.ppf(0.975, 29) * x.std(ddof=1) / np.sqrt(30)
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.1 * half)
    assert (moved.low, moved.high) == pytest.approx((found.low + 100, found.high + 100))
    assert mean_interval([5.0] * 9, seed=0)[1:] == (5.0, 5.0, 5.0)
    assert mean_interval([5.0, 6.0, 7.0], seed=0)[1:] == (6.0, None, None), "three numbers do not bound a mean"


def test_pairing_matters():
    base = np.random.default_rng(1).normal(size=30) * 10
    found = paired_difference(base + 0.1, base, seed=0)
    assert found.low == pytest.approx(0.1) and found.p is not None and found.p < 0.01


@pytest.mark.parametrize("bad", [[0.0, float("nan")], [float("inf"), 1.0], [[1.0, 2.0]]])
def test_values_that_are_no_numbers_are_refused(bad):
    with pytest.raises(UsageError):
        bootstrap_mean(bad, seed=0)
    with pytest.raises(UsageError):
        sign_flip_p(bad, seed=0)


def test_unequal_numbers_are_no_pairs():
    with pytest.raises(UsageError, match="equal numbers, not 2 and 3"):
        paired_difference([1, 2], [1, 2, 3], seed=0)
    with pytest.raises(UsageError, match="confidence"):
        bootstrap_mean([1, 2], seed=0, confidence=95)


# -- correlations ---------------------------------------------------------------------------------------------------


def test_the_correlation_with_an_outcome_of_0_and_1_is_the_point_biserial_one():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal(40), generator.integers(0, 2, 40)
    (found,) = correlations([x], y, seed=0, n_draws=200)
    share = y.mean()
    expected = (x[y == 1].mean() - x[y == 0].mean()) / x.std() * np.sqrt(share * (1 - share))
    assert found.r == pytest.approx(expected) == pytest.approx(np.corrcoef(x, y)[0, 1])
    (scaled,) = correlations([1e200 * x], y, seed=0, n_draws=200)
    assert scaled.r == pytest.approx(expected) and scaled.p == found.p


def test_the_permutation_p_value_is_the_share_of_all_pairings_that_are_as_extreme():
    x, y = np.array([0.1, 0.4, 0.2, 0.9, 0.7]), np.array([0, 0, 1, 1, 1])
    observed = abs(np.corrcoef(x, y)[0, 1])
    every = [abs(np.corrcoef(x, np.array(pairing))[0, 1]) for pairing in itertools.permutations(y)]
    exact = np.mean([r >= observed - 1e-12 for r in every])
    (found,) = correlations([x], y, seed=3, n_draws=40_000)
    assert found.p == pytest.approx(exact, abs=0.01)
    perfect = np.arange(30.0)
    (found,) = correlations([perfect], -2 * perfect, seed=0, n_draws=99)
    assert (found.r, found.p) == (pytest.approx(-1.0), 0.01)  # never 0


def test_under_shuffled_outcomes_p_values_are_even():
    generator = np.random.default_rng(1)
    x = generator.standard_normal((300, 25))
    p = np.array([c.p for c in correlations(list(x), generator.integers(0, 2, 25), seed=5, n_draws=999)])
    assert abs((p < 0.05).mean() - 0.05) < 0.04 and abs((p < 0.5).mean() - 0.5) < 0.1


def test_what_does_not_vary_has_no_correlation():
    x, flat = [0.0, 1.0, 2.0], [5.0, 5.0, 5.0]
    a, b = correlations([x, flat], [0, 1, 1], seed=0, n_draws=100)
    assert a.r is not None and (b.n, b.r, b.p) == (3, None, None)
    assert correlations([x], flat, seed=0)[0].p is None
    assert correlations([x[:2]], [0, 1], seed=0)[0].r is None
    assert correlations([], [0, 1, 1], seed=0) == []
    with pytest.raises(UsageError, match="equal numbers"):
        correlations([x], [0, 1], seed=0)
    with pytest.raises(UsageError, match="finite"):
        correlations([[0.0, 1.0, np.nan]], [0, 1, 1], seed=0)
