"""Every method finds a planted direction, turns round with the labels, and says chance where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from mplat.core.errors import InputError, UsageError
from mplat.steering.vectors import Labelled, auroc, vector_method_names
from mplat.steering.vectors.method import direction_of
from mplat.steering.vectors.separability import folds_by_group, held_out_auroc

METHODS = vector_method_names()
WIDTH = 24


def planted(strength: float, *, seed: int = 0, n: int = 150, paired: bool = False, width: int = WIDTH):
    """Unit noise, and `strength` along a random direction in the positive rows; the direction."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(width)
    direction /= np.linalg.norm(direction)
    shared = rng.standard_normal((n, width))  # what a pair has in common
    positive, negative = (shared * paired + rng.standard_normal((n, width)) for _ in range(2))
    return Labelled(positive + strength * direction, negative, paired, seed), direction


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_found(method, paired):
    for seed in range(3):
        examples, direction = planted(4.0, seed=seed, paired=paired)
        found = direction_of(method, examples)
        assert abs(np.linalg.norm(found) - 1) < 1e-12
        assert found @ direction > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_exchanged_labels_give_the_opposite_direction_and_equal_examples_the_same_bits(method):
    examples, _ = planted(2.0)
    found = direction_of(method, examples)
    assert (found == direction_of(method, examples)).all()
    assert found @ direction_of(method, examples.swapped()) < -1 + 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_more_coordinates_than_texts_change_nothing_about_it(method):
    examples, direction = planted(6.0, n=40, width=300)
    assert direction_of(method, examples) @ direction > 0.6


def test_a_probe_in_the_span_of_the_rows_is_the_probe():
    """Against scikit-learn on all coordinates: the L2 penalty has its minimum in the span."""
    from sklearn.linear_model import LogisticRegression

    examples, _ = planted(1.0, n=20, width=60)
    x = np.concatenate([examples.positive, examples.negative])
    spread = x.std(0)
    probe = LogisticRegression(C=0.1, max_iter=5000, tol=1e-10).fit((x - x.mean(0)) / spread, [1] * 20 + [0] * 20)
    expected = probe.coef_[0] / spread
    assert direction_of("logistic_probe", examples) @ expected / np.linalg.norm(expected) > 1 - 1e-6


def test_lda_undoes_a_covariance_that_misleads_the_difference_of_means():
    rng = np.random.default_rng(1)
    spread = np.array([10.0, 1.0])
    positive = rng.standard_normal((400, 2)) * spread + [3.0, 3.0]
    negative = rng.standard_normal((400, 2)) * spread
    examples = Labelled(positive, negative)
    assert abs(direction_of("lda", examples)[1]) > 0.99 > abs(direction_of("difference_of_means", examples)[1])


@pytest.mark.parametrize("method", METHODS)
def test_held_out_auroc_is_high_where_planted_and_chance_where_labels_are_shuffled(method):
    examples, _ = planted(3.0, n=60)
    groups = [f"g{i}" for i in range(60)]
    others = [f"h{i}" for i in range(60)]
    assert held_out_auroc(method, examples, groups, others, folds=5) > 0.9
    everything = np.concatenate([examples.positive, examples.negative])
    by_chance = []
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(120)
        shuffled = Labelled(everything[order[:60]], everything[order[60:]], False, seed)
        by_chance.append(held_out_auroc(method, shuffled, groups, others, folds=5))
    assert abs(np.mean(by_chance) - 0.5) < 0.06 and max(by_chance) < 0.75


def test_texts_of_a_group_are_never_on_both_sides():
    """Rows of a group are copies: a direction that had seen them would tell them apart, though labels are random."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.standard_normal((30, 200)), 4, axis=0)
    groups = [f"g{i // 4}" for i in range(120)]
    labels = rng.permutation(30) < 15
    of_row = np.repeat(labels, 4)
    names = np.array(groups)
    examples = Labelled(rows[of_row], rows[~of_row])
    sides = list(names[of_row]), list(names[~of_row])
    assert held_out_auroc("lda", examples, *sides, folds=5) < 0.8
    torn = [f"{g}{i}" for i, g in enumerate(sides[0])], [f"{g}{i}" for i, g in enumerate(sides[1])]
    assert held_out_auroc("lda", examples, *torn, folds=5) > 0.95


def test_folds_have_both_labels_and_depend_on_the_seed_alone():
    positive, negative = [f"p{i}" for i in range(11)], [f"n{i}" for i in range(7)]
    fold = folds_by_group(positive, negative, 5, 3)
    assert fold == folds_by_group(positive[::-1], negative, 5, 3) != folds_by_group(positive, negative, 5, 4)
    for side in (positive, negative):
        assert {fold[g] for g in side} == set(range(5))
    with pytest.raises(InputError, match="the negative texts are of 7 groups, too few for 8 folds"):
        folds_by_group(positive, negative, 8, 0)
    with pytest.raises(UsageError, match="at least 2 folds"):
        folds_by_group(positive, negative, 1, 0)


def test_auroc_by_counting_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 17), rng.integers(0, 6, 23)
    counted = np.mean([[(x > y) + (x == y) / 2 for y in b] for x in a])
    assert abs(auroc(a, b) - counted) < 1e-12
    with pytest.raises(InputError, match="not finite"):
        auroc([np.nan], [1.0])


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_tell_apart_and_values_that_are_not_finite_are_errors(method):
    same = np.ones((6, 3))
    with pytest.raises(InputError, match="equal activations"):
        direction_of(method, Labelled(same, same))
    with pytest.raises(InputError, match="not finite"):
        direction_of(method, Labelled(np.full((6, 3), np.nan), same))
