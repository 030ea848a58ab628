"""What is computed of measured circuits: areas, sizes, tests and bounds, against values worked out by hand."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from mplat.core.errors import UsageError
from mplat.interp.methods.circuit_tests import equivalence, independence, minimality
from mplat.interp.methods.faithfulness import areas, auc, circuit_sizes, faithfulness, ranked, smallest_faithful
from mplat.interp.methods.false_negatives import upper_count


def test_faithfulness_is_the_share_of_the_way_from_empty_to_full() -> None:
    full, empty = np.array([4.0, 6.0]), np.array([-1.0, 1.0])
    assert faithfulness(full, full, empty) == 1.0 and faithfulness(empty, full, empty) == 0.0
    assert faithfulness([2.0, 3.0], full, empty) == 0.5
    assert faithfulness(full, full, full) is None and faithfulness([], [], []) is None


def test_areas_are_those_of_the_trapezoids() -> None:
    """f = 0, 0.5, 1.25, 1 at 0, 0.2, 0.5, 1 of ten edges."""
    found = areas([2, 5, 10], [0.5, 1.25, 1.0], 10)
    assert found.cpr == pytest.approx(0.2 * 0.25 + 0.3 * 0.875 + 0.5 * 1.125)
    assert found.cmd == pytest.approx(0.2 * 0.75 + 0.3 * 0.375 + 0.5 * 0.125)
    perfect = areas([1, 1000], [1.0, 1.0], 1000)
    assert perfect.cpr == pytest.approx(1, abs=1e-3) and perfect.cmd == pytest.approx(0, abs=1e-3)
    nothing = areas([1, 999, 1000], [0.0, 0.0, 1.0], 1000)
    assert nothing.cpr == pytest.approx(0, abs=1e-3) and nothing.cmd == pytest.approx(1, abs=1e-3)
    with pytest.raises(UsageError, match="ascend"):
        areas([5, 2, 10], [1, 1, 1], 10)


def test_sizes_and_rankings() -> None:
    assert circuit_sizes(35) == [1, 2, 4, 7, 18, 35] and circuit_sizes(1) == [1]
    assert circuit_sizes(2000)[:3] == [2, 4, 10]
    with pytest.raises(UsageError, match="fractions"):
        circuit_sizes(10, [0.0])
    assert ranked([0.5, -2.0, 0.5, 1.0]).tolist() == [1, 3, 0, 2]
    assert smallest_faithful([1, 2, 4, 8], [0.9, 0.1, 0.85, 1.0], 0.8) == 4
    assert smallest_faithful([1, 2], [0.1, 0.2], 0.8) == 2
    assert auc([3, -2, 1, 0], [True, True, False, False]) == 1.0 and auc([1, 1], [True, False]) == 0.5
    assert auc([1, 2], [True, True]) is None


def test_equivalence_rejects_what_is_always_worse_and_not_what_is_the_same(rng: np.random.Generator) -> None:
    model = rng.standard_normal(20)
    assert equivalence(model, model).p == 1.0
    worse = equivalence(model - 1, model)
    assert worse.statistic == 0.0 and worse.p == pytest.approx(0.6**20 + 0.4**20)  # all 20 on one side
    either = equivalence(model + np.where(np.arange(20) % 2, 1, -1), model)
    assert either.statistic == 0.5 and either.p == 1.0
    assert equivalence([1.0], [2.0]).p is None
    with pytest.raises(UsageError, match="tolerance"):
        equivalence(model, model, tolerance=0.5)


def test_independence_rejects_what_goes_with_the_model(rng: np.random.Generator) -> None:
    model, noise = rng.standard_normal(40), rng.standard_normal(40)
    bent = independence(np.cos(2 * model), model, seed=0)  # no correlation, but dependent
    assert bent.p is not None and bent.p < 0.01
    unrelated = [independence(rng.standard_normal(40), model, seed=0, n_draws=200).p for _ in range(40)]
    assert sum(p is not None and p < 0.05 for p in unrelated) <= 9  # two are expected, more than 9 once in 48,000
    assert independence(np.zeros(40), model, seed=0).p == 1.0
    assert independence(noise[:3], model[:3], seed=0).p is None
    assert independence(noise, model, seed=0) == independence(noise, model, seed=0)


def test_minimality_needs_every_element_to_matter_more_than_what_is_added(rng: np.random.Generator) -> None:
    outside = 0.01 * rng.random(19)
    line, each = minimality([0.5, 0.3, -0.2], outside)
    assert line.p == 0.05 and each == [0.05] * 3 and line.statistic == 0.2
    line, each = minimality([0.5, 0.0], outside)
    assert line.p == 1.0 and each == [0.05, 1.0]
    assert minimality([0.5], [])[0].p is None


def test_the_bound_on_what_was_overlooked_is_the_hypergeometric_one() -> None:
    """Drawing 19 of 100 and seeing none: P(none | K matter) <= 5 % from K = 14 on."""

    def chance(K: int) -> float:
        return comb(100 - K, 19) / comb(100, 19)

    bound = upper_count(100, 19, 0)
    assert chance(bound) > 0.05 >= chance(bound + 1)
    assert upper_count(17, 17, 2) == 2 and upper_count(30, 0, 0) == 30
    assert upper_count(100, 19, 3) > bound
    covered = 0
    for draw in range(400):  # of 40 edges 6 matter; the bound misses them in at most 5 % of the draws
        hits = int((np.random.default_rng(draw).permutation(40)[:15] < 6).sum())
        covered += upper_count(40, 15, hits) >= 6
    assert covered >= 0.93 * 400
    with pytest.raises(UsageError, match="do not fit"):
        upper_count(5, 6, 0)
