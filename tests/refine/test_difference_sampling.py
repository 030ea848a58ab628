"""Difference sampling: the definition, ties, and chunks without a score."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.refine.selection import scores, select

SOME = st.lists(st.sampled_from([-1.5, -0.5, 0.0, 0.25, 2.0, math.nan]), min_size=1, max_size=40)
SHARES = st.integers(1, 1000).map(lambda thousandth: thousandth / 1000)


@given(SOME, SHARES)
def test_the_best_are_kept_and_of_equal_ones_the_first(found, keep):
    with_score = [i for i, score in enumerate(found) if not math.isnan(score)]
    n = int((Decimal(str(keep)) * len(with_score)).to_integral_value(ROUND_CEILING))
    expected = sorted(sorted(with_score, key=lambda i: (-found[i], i))[:n])
    kept, threshold = select(np.array(found), keep)
    assert np.flatnonzero(kept).tolist() == expected
    assert threshold == (min(found[i] for i in expected) if expected else None)


def test_a_share_is_exact_where_floats_are_not():
    assert math.ceil(0.07 * 100) == 8
    assert select(np.arange(100.0), 0.07).kept.sum() == 7


def test_equal_scores_keep_the_beginning_of_the_corpus():
    assert select(np.zeros(7), 0.5).kept.tolist() == [True] * 4 + [False] * 3


def test_infinite_scores_are_none():
    kept, threshold = select(np.array([np.inf, -np.inf, np.nan, 1.0]), 1.0)
    assert kept.tolist() == [False, False, False, True] and threshold == 1.0


def test_a_score_is_what_the_teacher_saves_on_each_token():
    found = scores(np.array([30.0, 10.0, np.nan]), np.array([20.0, 15.0, 1.0]), np.array([5.0, 2.0, 1.0]))
    assert found[:2] == pytest.approx([2.0, -2.5]) and np.isnan(found[2])
