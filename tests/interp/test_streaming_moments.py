"""Merged batches give the mean and variance of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.interp.methods.moments import Moments, merge, merge_all, moments_of


@given(
    cuts=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(sum),
    offset=st.sampled_from([0.0, 1.0, -1e6]),
    seed=st.integers(0, 9),
)
def test_any_cut_of_a_stream_gives_numpys_moments(cuts: list[int], offset: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(sum(cuts), 3)) + offset
    parts = np.split(values, np.cumsum(cuts)[:-1])
    found = merge_all(map(moments_of, parts), 3)
    assert found.n == len(values)
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.variance, values.var(0), rtol=1e-9, atol=1e-12)


def test_a_large_mean_does_not_swallow_a_small_variance() -> None:
    """Where E[x^2] - E[x]^2 in float64 has no digit left."""
    values = 1e9 + np.tile([[-1.0], [1.0]], (500, 1))
    found = merge_all((moments_of(part) for part in np.split(values, 10)), 1)
    np.testing.assert_allclose(found.variance, [1.0], rtol=1e-12)
    assert abs((values**2).mean() - values.mean() ** 2 - 1.0) > 0.5


def test_an_empty_stream_has_no_variance() -> None:
    empty = moments_of(np.zeros((0, 2)))
    assert merge(empty, empty).n == 0
    with pytest.raises(AssertionError):
        _ = empty.variance
    some = Moments(1, np.array([2.0, 3.0]), np.zeros(2))
    assert merge(empty, some) is some and merge(some, empty) is some
