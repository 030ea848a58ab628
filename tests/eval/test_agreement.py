"""Intraclass correlations: a published table, an analysis of variance in loops, and planted shares of variance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mplat.core.errors import UsageError
from mplat.scoring.statistics import intraclass

# Shrout and Fleiss 1979, table 2: six targets, four judges
TABLE = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def rows(table: list[list[float]]) -> tuple[list[float], list[int]]:
    return [v for row in table for v in row], [i for i, row in enumerate(table) for _ in row]


def test_the_published_table_has_the_published_values() -> None:
    found = intraclass(*rows(TABLE), seed=0)
    assert (found.groups, found.n, found.size) == (6, 24, 4.0)
    assert found.single == pytest.approx(0.17, abs=0.005) and found.average == pytest.approx(0.44, abs=0.005)
    assert found.f == pytest.approx(11.24 / 6.26, abs=0.002) and found.p == pytest.approx(0.165, abs=0.001)
    ends = (found.single_low, found.single_high, found.average_low, found.average_high)
    assert ends == pytest.approx((-0.133, 0.723, -0.884, 0.912), abs=0.001)


def test_with_occasions_too() -> None:
    values, groups = rows(TABLE)
    found = intraclass(values, groups, seed=0, occasions=[j for _ in TABLE for j in range(4)])
    assert found.single == pytest.approx(0.71, abs=0.006) and found.average == pytest.approx(0.91, abs=0.005)
    ends = (found.single_low, found.single_high, found.average_low, found.average_high)
    assert ends == pytest.approx((0.342, 0.946, 0.676, 0.986), abs=0.001)
    assert intraclass([1.0, 5.0, 2.0, 6.0], list("aabb"), seed=0, occasions=[0, 1, 0, 1]).single == 1.0
    with pytest.raises(UsageError, match="one value of each"):
        intraclass(values, groups, seed=0, occasions=[0] * len(values))


tables = st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=5), min_size=2, max_size=6)


@settings(max_examples=40, deadline=None)
@given(tables, st.floats(0.1, 10), st.integers(-50, 50))
def test_it_is_the_analysis_of_variance_and_shift_and_scale_change_nothing(
    table: list[list[float]], scale: float, shift: int
) -> None:
    values, groups = rows(table)
    found = intraclass(values, groups, seed=0, n_resamples=2)
    total, k = len(values), len(table)
    grand = sum(values) / total
    within = sum((v - sum(row) / len(row)) ** 2 for row in table for v in row)
    between = sum(len(row) * (sum(row) / len(row) - grand) ** 2 for row in table)
    if total == k or between + within < 1e-9:
        assert found.single is None
        return
    msb, msw = between / (k - 1), within / (total - k)
    size = (total - sum(len(row) ** 2 for row in table) / total) / (k - 1)
    assert found.single == pytest.approx((msb - msw) / (msb + (size - 1) * msw), abs=1e-9)
    moved = intraclass([scale * v + shift for v in values], groups, seed=0, n_resamples=2)
    assert moved.single == pytest.approx(found.single, abs=1e-9)


def test_a_planted_share_is_found_and_both_intervals_agree() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (300, 1)) + rng.normal(0, 1, (300, 4))  # half of the variance is between groups
    found = intraclass(values.ravel(), np.repeat(np.arange(300), 4).tolist(), seed=1)
    assert found.single_low is not None and found.single_high is not None
    assert found.single_low < 0.5 < found.single_high and found.single == pytest.approx(0.5, abs=0.06)
    assert found.average == pytest.approx(0.8, abs=0.04)  # Spearman and Brown: 4 r / (1 + 3 r)
    ends = (found.single_low, found.single_high)
    assert (found.resampled_low, found.resampled_high) == pytest.approx(ends, abs=0.03)


def test_what_has_no_intraclass_correlation_has_none() -> None:
    for values, groups in (([], []), ([1.0, 2.0], ["a", "a"]), ([1.0, 2.0], ["a", "b"]), ([3.0] * 4, list("aabb"))):
        assert intraclass(values, groups, seed=0).single is None
    same = intraclass([1.0, 1.0, 5.0, 5.0], list("aabb"), seed=0)
    assert (same.single, same.average, same.f, same.p) == (1.0, 1.0, None, 0.0)
    with pytest.raises(UsageError, match="one group for each"):
        intraclass([1.0], [], seed=0)
