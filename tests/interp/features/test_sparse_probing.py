"""k-sparse probes find planted coordinates, score chance on shuffled labels, and never judge by a group they saw."""

from __future__ import annotations

import numpy as np
import pytest
from mplat.core.errors import InputError
from mplat.interp.methods import sparse_probing
from mplat.interp.methods.sparse_probing import (
    Sparse,
    auroc,
    f1,
    fit_probe,
    group_folds,
    separation,
    shuffled,
)

RNG = np.random.default_rng(0)
N = 600
Y = RNG.random(N) < 0.3
X = RNG.normal(size=(N, 40))
X[:, 7] += 1.5 * Y
X[:, 21] -= 1.5 * Y
GROUPS = [f"g{i // 5}" for i in range(N)]
FOLDS = group_folds(GROUPS, 4)


def sparse_probes(x: np.ndarray, y: np.ndarray, folds: np.ndarray, ks: tuple[int, ...]) -> list[Sparse]:
    found = sparse_probing.sparse_probes(x, y, folds, ks)
    assert found is not None
    return found


def test_planted_coordinates_are_found_and_tell_the_label_as_well_as_all() -> None:
    one, two, many = sparse_probes(X, Y, FOLDS, (1, 2, 32))
    assert set(two.coordinates) == {7, 21} and one.coordinates[0] in (7, 21)
    best = auroc(X[:, 7] - X[:, 21], Y)  # the best there is for two equal Gaussians
    assert two.auroc == pytest.approx(best, abs=0.01) and one.auroc < two.auroc and many.auroc < best + 0.005
    alone = sorted([auroc(X[:, 7], Y), auroc(-X[:, 21], Y)])
    assert alone[0] - 0.05 < one.auroc < alone[1] + 0.01 and two.f1 > one.f1


def test_shuffled_labels_score_chance() -> None:
    areas = [
        one.auroc for seed in range(10) for one in sparse_probes(X, shuffled(Y, seed), FOLDS, (1, 4, 16))
    ]  # fmt: skip
    assert np.mean(areas) == pytest.approx(0.5, abs=0.02) and max(areas) < 0.62
    assert all(sorted(shuffled(Y, seed)) == sorted(Y) for seed in range(3))
    assert not np.array_equal(shuffled(Y, 0), shuffled(Y, 1))


def test_a_coordinate_that_only_names_the_group_tells_nothing_of_other_groups() -> None:
    """Labels that are the same in a group: a probe that may see the group is right, and one that may not is not."""
    number = np.arange(N) // 5
    y = np.random.default_rng(1).random(N // 5)[number] < 0.5
    x = np.eye(N // 5)[number]
    across = sparse_probes(x, y, FOLDS, (32,))
    within = sparse_probes(x, y, np.arange(N) % 4, (32,))
    assert within[0].auroc > 0.6 > across[0].auroc
    for fold in range(4):
        held = {g for g, f in zip(GROUPS, FOLDS, strict=True) if f == fold}
        assert not held & {g for g, f in zip(GROUPS, FOLDS, strict=True) if f != fold} and len(held) == 30


@pytest.mark.parametrize("width", [5, 300])
def test_a_probe_is_at_the_minimum_of_its_loss(width: int) -> None:
    """The slope of the ridge-logistic loss with equal classes is 0, by its own formula."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(400, width)) * 3 + 1, rng.random(400) < 0.25
    x[:, 0] += y
    probe = fit_probe(x, y, np.arange(width))
    z = (x - x.mean(0)) / x.std(0)
    p = 1 / (1 + np.exp(-(z @ probe.weights + probe.bias)))
    weight = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
    slope = z.T @ (weight * (p - y)) + 1e-2 * probe.weights
    assert np.abs(slope).max() < (1e-8 if width == 5 else 1e-3) and abs((weight * (p - y)).sum()) < 1e-3
    np.testing.assert_allclose(probe.scores(x), z @ probe.weights + probe.bias, rtol=1e-9)


def test_scores_of_known_rankings() -> None:
    y = np.array([True, True, False, False])
    assert auroc(np.array([4.0, 3, 2, 1]), y) == 1 and auroc(np.array([1.0, 2, 3, 4]), y) == 0
    assert auroc(np.array([1.0, 1, 1, 1]), y) == 0.5 and auroc(np.array([3.0, 1, 2, 1]), y) == 0.625
    assert auroc(np.ones(2), np.array([True, True])) is None
    assert f1(np.array([True, False, True, False]), y) == 0.5 and f1(~y, y) == 0.0 and f1(y, y) == 1.0


def test_separation_is_the_difference_of_means_in_deviations_within_the_classes() -> None:
    a, b = X[Y], X[~Y]
    within = np.sqrt((a.var(0) * len(a) + b.var(0) * len(b)) / N)
    np.testing.assert_allclose(separation(X, Y), np.abs(a.mean(0) - b.mean(0)) / within, rtol=1e-12)
    perfect = np.stack([Y.astype(float), np.ones(N), X[:, 0]], 1)
    found = separation(perfect, Y)
    assert np.argmax(found) == 0 and found[1] == 0 and np.isfinite(found).all()


def test_what_cannot_be_probed_is_said() -> None:
    with pytest.raises(InputError, match="both classes"):
        fit_probe(X, np.ones(N, bool), np.arange(3))
    lonely = np.zeros(N, bool)
    lonely[0] = True
    assert sparse_probing.sparse_probes(X, lonely, FOLDS, (1,)) is None
    assert sparse_probing.sparse_probes(X, Y, np.zeros(N, np.int64), (1,)) is None
    assert [one.k for one in sparse_probes(X[:, :3], Y, FOLDS, (1, 2, 4))] == [1, 2]
