"""Paired differences in groups: interval and p-value of one test, against enumeration, Tango's paper and simulation."""

# pyright: reportOperatorIssue=false
from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given
from hypothesis import strategies as st
from mplat.core.errors import UsageError
from mplat.scoring.statistics import (
    bootstrap_mean,
    effect_size,
    mean_interval,
    paired_difference,
    rank_p,
    sign_flip_p,
    wilson,
)
from mplat.scoring.statistics.samples import grouped
from mplat.scoring.statistics.score_test import accepted, score_p

ANSWERS = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 1.0, 0.5]), st.sampled_from([0.0, 0.0, 1.0, 0.4]), st.integers(0, 25)),
    min_size=2,
    max_size=60,
)
NUMBERS = st.lists(
    st.tuples(st.sampled_from([-3.0, -0.25, 0.0, 0.1, 2.0]), st.just(0.0), st.integers(0, 25)), min_size=2, max_size=60
)


def columns(rows):
    a, b, groups = zip(*rows, strict=True)
    return np.array(a), np.array(b), list(groups)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@given(rows=st.one_of(ANSWERS, NUMBERS))
def test_the_interval_excludes_zero_exactly_where_p_is_below_alpha(confidence, rows):
    a, b, groups = columns(rows)
    found = paired_difference(a, b, seed=0, groups=groups, n_resamples=199, confidence=confidence)
    if found.p is None:
        assert found.n_groups == 1 and found.low is None
        return
    low = -np.inf if found.low is None else found.low
    high = np.inf if found.high is None else found.high
    assert (low > 0 or high < 0) == (found.p < 1 - confidence)
    assert low <= found.mean + 1e-12 and found.mean <= high + 1e-12
    mirrored = paired_difference(b, a, seed=0, groups=groups, n_resamples=199, confidence=confidence)
    if found.low is not None and len(set(groups)) <= 16:  # enumerated: nothing is drawn but the signs of still groups
        assert mirrored.p == pytest.approx(found.p)


@given(st.lists(st.tuples(st.sampled_from([-1.0, -0.3, 0.2, 2.0]), st.integers(0, 7)), min_size=2, max_size=14))
def test_the_interval_is_the_means_that_all_assignments_together_do_not_reject(rows):
    """Up to eight groups by enumeration of every assignment, for means on both sides of each bound."""
    d, groups = np.array([v for v, _ in rows]) * 3, [g for _, g in rows]
    sums = np.array([d[np.array(groups) == g].sum() for g in dict.fromkeys(groups)])
    sizes = np.array([groups.count(g) for g in dict.fromkeys(groups)])
    found = paired_difference(d, np.zeros(len(d)), seed=0, groups=groups, confidence=0.8)
    if len(sums) < 2:
        return
    signs = np.array(list(itertools.product((1, -1), repeat=len(sums))))

    def p(mean):
        around = sums - mean * sizes
        return (np.abs(signs @ around) >= abs(around.sum()) - 1e-9).mean()

    if (np.abs(sums) > 1e-9).all():  # else the signs of still groups are drawn
        assert found.p == pytest.approx(p(0.0))
        for bound, outward in ((found.low, -1), (found.high, 1)):
            if bound is None:
                assert p(outward * 1e6) >= 0.2 - 1e-12
            else:
                assert p(bound - outward * 1e-6) >= 0.2 - 1e-12 > p(bound + outward * 1e-6) or np.ptp(d) == 0


def test_the_score_interval_is_tangos():
    """The example of Fagerland, Lydersen & Laake (2014): of 21 children 1 got better and 7 worse."""
    d = np.array([1.0] + [-1.0] * 7 + [0.0] * 13)
    p = score_p(d, grouped(d, None))
    assert accepted(p, float(d.mean()), 0.05) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert p(0.0) == pytest.approx(2 * scipy.stats.norm.sf(6 / np.sqrt(8))), "McNemar's"
    found = paired_difference(np.maximum(d, 0), np.maximum(-d, 0), seed=0)
    assert (found.low, found.high) == pytest.approx((-0.517, 0.0), abs=5e-4), "exactly, p is .07"
    assert found.p == scipy.stats.binomtest(1, 8).pvalue


@example(0, 0, 10, 2.5e-6)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(10, 60), st.floats(-0.9, 0.9))
def test_the_score_test_has_the_variance_of_the_likeliest_shares(up, down, still, mean):
    n = up + down + still
    d = np.array([1.0] * up + [-1.0] * down + [0.0] * still)

    def log_likelihood(fewer):
        return up * np.log(fewer + mean) + down * np.log(fewer) + still * np.log(1 - 2 * fewer - mean)

    least, most = max(0.0, -mean), (1 - mean) / 2
    grid = least + (most - least) * np.geomspace(1e-9, 1.0, 20_001)[:-1]  # where nothing changed it is at the least
    fewer = grid[np.argmax(log_likelihood(grid))]
    z = abs(d.mean() - mean) * np.sqrt(n / (2 * fewer + mean - mean**2))
    assert score_p(d, grouped(d, None))(mean) == pytest.approx(2 * scipy.stats.norm.sf(z), abs=2e-3)


def test_half_points_vary_half_as_much():
    whole = np.array([1.0] * 22 + [-1.0] * 20 + [0.0] * 158)
    of_whole, of_half = (
        paired_difference(np.maximum(d, 0), np.maximum(-d, 0), seed=0, shares=True) for d in (whole, whole / 2)
    )
    assert of_half.high - of_half.low == pytest.approx((of_whole.high - of_whole.low) / 2, rel=0.06)
    right = np.array([1.0] * 45 + [0.0] * 55)
    middling = np.where(np.arange(100) % 2, right, 0.45)  # half of them lie on the mean
    once, half = (mean_interval(x, seed=0, shares=True) for x in (right, middling))
    assert half.high - half.low == pytest.approx((once.high - once.low) / np.sqrt(2), rel=0.06)


def test_where_nothing_changed_the_interval_says_how_little_that_means():
    found = paired_difference([1] * 50, [1] * 50, seed=0)
    z = scipy.stats.norm.ppf(0.975) ** 2
    assert (found.mean, found.p) == (0.0, 1.0)
    assert found.high == pytest.approx(z / (50 + z)) and found.low == -found.high
    fewer = paired_difference([1] * 50, [1] * 50, seed=0, groups=[i // 5 for i in range(50)])
    assert fewer.high == pytest.approx(z / (10 + z)), "ten documents of five questions are worth ten"
    for number, shares in ((7.0, None), (0.0, None), (1.0, False)):  # numbers without an end may well not change at all
        unmoved = paired_difference([number] * 50, [number] * 50, seed=0, shares=shares)
        assert unmoved[1:5] == (0.0, 0.0, 0.0, 1.0)
    floor = paired_difference([0.0] * 50, [0.0] * 50, seed=0, shares=True)
    assert (floor.low, floor.high) == (found.low, found.high)
    assert mean_interval([0.0] * 50, seed=0)[1:] == (0.0, 0.0, 0.0)
    assert mean_interval([0.0] * 50, seed=0, shares=True) == wilson([0.0] * 50)
    with pytest.raises(UsageError, match="shares lie between"):
        paired_difference([7.0, 1.0], [0.0, 0.0], seed=0, shares=True)


def test_groups_are_turned_whole():
    d, groups = [1.0, 1.0, 1.0, 1.0, -1.0, 0.0, 1.0], ["a", "a", "a", "b", "b", "c", "d"]
    assert sign_flip_p(d, seed=0, groups=groups) == 2 / 4, "a and d move, b cancels, c is still"
    assert sign_flip_p(d, seed=0, groups=range(7)) == sign_flip_p(d, seed=0)
    assert sign_flip_p(d, seed=0, groups=["a"] * 7) is None
    cancels = [0.1, 0.2, -0.3] * 10 + [1.0, 1.0]
    labels = [i // 3 for i in range(30)] + [10, 11]
    assert sign_flip_p(cancels, seed=0, groups=labels) == 2 / 4, "what cancels up to rounding is still"
    with pytest.raises(UsageError, match="2 groups and 7 values"):
        sign_flip_p(d, seed=0, groups=["a", "b"])


def test_groups_of_one_change_nothing_and_copies_of_a_question_tell_nothing_new():
    rng = np.random.default_rng(1)
    x = (rng.random(40) < 0.6).astype(float)
    alone, copied = list(range(40)), np.repeat(range(40), 3).tolist()
    assert wilson(x, groups=alone) == wilson(x)
    assert bootstrap_mean(x, seed=0, groups=alone).mean == bootstrap_mean(x, seed=0).mean
    once, thrice = wilson(x), wilson(np.repeat(x, 3), groups=copied)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=0.005)
    y = rng.normal(size=40)
    for interval in (bootstrap_mean, mean_interval):
        once, thrice = interval(y, seed=0), interval(np.repeat(y, 3), seed=0, groups=copied)
        assert thrice.n == 120
        assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=0.02)
        ignored = interval(np.repeat(y, 3), seed=0)
        assert ignored.high - ignored.low < 0.7 * (thrice.high - thrice.low)


def test_means_stay_means_over_values():
    found = paired_difference([1, 1, 1, 0], [0, 0, 0, 0], seed=0, groups=["a", "a", "a", "b"])
    assert (found.n, found.n_groups, found.mean) == (4, 2, 0.75)
    assert bootstrap_mean([1.0, 1.0, 1.0, 0.2], seed=0, groups=["a", "a", "a", "b"]).mean == 0.8
    assert mean_interval([1.0, 1.0], seed=0, groups=["a", "a"])[1:] == (1.0, None, None)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_of_groups_is_scipys_of_a_ratio(method):
    rng = np.random.default_rng(5)
    groups = rng.integers(0, 25, size=80)
    x = rng.exponential(size=80) + rng.normal(size=25)[groups]
    order = list(dict.fromkeys(groups.tolist()))
    sums, sizes = (np.array([f(x[groups == g]) for g in order]) for f in (np.sum, len))
    theirs = scipy.stats.bootstrap(
        (sums, sizes), lambda s, n, axis: s.sum(axis) / n.sum(axis), paired=True, vectorized=True, n_resamples=3000,
        method=method, rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    ours = bootstrap_mean(x, seed=2, groups=groups.tolist(), n_resamples=3000, method=method)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


@pytest.mark.parametrize(("questions", "discordance"), [(200, 0.2), (50, 0.4)])
def test_intervals_of_grouped_answers_cover_and_those_that_know_no_groups_do_not(questions, discordance):
    """A small run of benchmarks/intervals.py: 400 samples, one to six questions a document that mostly agree."""
    rng = np.random.default_rng(3)
    covered = ignored = rejected = 0
    truth = 0.4 * discordance
    for repeat in range(400):
        groups = np.repeat(np.arange(questions), rng.integers(1, 7, size=questions))[:questions]
        up, down = (discordance + truth) / 2, (discordance - truth) / 2

        def drawn(p_up, p_down):
            return rng.choice([1, -1, 0], p=[p_up, p_down, 1 - p_up - p_down], size=questions)

        shared = rng.random(questions) < np.sqrt(0.6)
        d = np.where(shared, drawn(up, down)[groups], drawn(up, down))
        a, b = np.maximum(d, 0), np.maximum(-d, 0)
        found = paired_difference(a, b, seed=repeat, groups=groups.tolist(), n_resamples=199)
        alone = paired_difference(a, b, seed=repeat, n_resamples=199)
        covered += found.low <= truth <= found.high
        ignored += alone.low <= truth <= alone.high
        half = discordance / 2
        null = np.where(shared, drawn(half, half)[groups], drawn(half, half))
        rejected += sign_flip_p(null, seed=repeat, groups=groups.tolist(), n_draws=199) < 0.05
    assert 0.93 <= covered / 400 <= 0.98 and ignored / 400 < 0.87
    assert rejected / 400 < 0.075


def test_intervals_of_means_cover_where_questions_share_documents():
    rng = np.random.default_rng(6)
    covered = ignored = 0
    for _ in range(400):
        groups = np.repeat(np.arange(200), rng.integers(1, 7, size=200))[:200]
        common, own = (rng.random(200) < 0.15 for _ in range(2))
        right = np.where(rng.random(200) < np.sqrt(0.5), common[groups], own).astype(float)
        found, alone = wilson(right, groups=groups.tolist()), wilson(right)
        covered += found.low <= 0.15 <= found.high
        ignored += alone.low <= 0.15 <= alone.high
    assert 0.92 <= covered / 400 <= 0.98 and ignored / 400 < 0.87


def test_effect_sizes():
    h = effect_size([1, 1, 1, 0], [1, 0, 0, 0])
    assert h == pytest.approx(2 * np.arcsin(np.sqrt(0.75)) - 2 * np.arcsin(0.5))
    x = np.random.default_rng(0).normal(1.0, 2.0, size=30)
    assert effect_size(x, 0 * x) == pytest.approx(x.mean() / x.std(ddof=1))
    assert effect_size([0.5, 0.5], [0.5, 0.5]) == 0.0
    assert effect_size([1.5, 1.5], [0.5, 0.5]) is None and effect_size([1], [0]) is None
    assert paired_difference([1, 1, 1, 0], [1, 0, 0, 0], seed=0).effect == h
    with pytest.raises(UsageError, match="equal numbers"):
        effect_size([1, 2], [1])


def test_a_rank_among_draws():
    assert rank_p(1.0, np.linspace(0, 0.9, 19)) == 1 / 20
    assert rank_p(0.9, np.linspace(0, 0.9, 19)) == 2 / 20, "a draw that does as well counts"
    assert rank_p(1.0, [0.0] * 18) > 0.05
    rng = np.random.default_rng(1)
    p = [rank_p(draws[0], draws[1:]) for draws in rng.normal(size=(2000, 20))]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.015)
    with pytest.raises(UsageError, match="at least 19"):
        rank_p(0.5, [])
