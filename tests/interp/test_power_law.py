"""Fitted exponents: exact without noise, in their intervals as often as these say, refused of too few points."""

from __future__ import annotations

import numpy as np
import pytest
from mplat.core.errors import UsageError
from mplat.interp.methods.power_law import fit_power_law, judge, resampled_means
from numpy.typing import NDArray

SIZES = np.array([1e5, 3e5, 1e6, 3e6, 1e7, 3e7])
ALPHA, AMPLITUDE, FLOOR = 0.34, 400.0, 1.7


def law(alpha: float = ALPHA, floor: float = 0.0, sizes: NDArray[np.float64] = SIZES) -> NDArray[np.float64]:
    return floor + AMPLITUDE * sizes**-alpha


@pytest.mark.parametrize(
    ("floor", "alpha"), [(0.0, 0.05), (0.0, 0.34), (0.0, 1.2), (FLOOR, 0.2), (FLOOR, 0.34), (0.3, 0.8)]
)
def test_a_law_without_noise_is_found_exactly(floor: float, alpha: float) -> None:
    found = fit_power_law(SIZES, law(alpha, floor), floor=floor > 0)
    assert float(found.alpha[0]) == pytest.approx(alpha, rel=1e-5)
    assert float(found.amplitude[0]) == pytest.approx(AMPLITUDE, rel=1e-3)
    assert float(found.floor[0]) == pytest.approx(floor, rel=1e-4) and not found.bounded[0]
    assert found.at(SIZES)[0] == pytest.approx(law(alpha, floor), rel=1e-6)


def test_many_curves_are_fitted_as_each_alone() -> None:
    curves = np.stack([law(0.2, 0.5), law(0.5, 1.0), law(0.9, 0.1)])
    together = fit_power_law(SIZES, curves, floor=True)
    for i, curve in enumerate(curves):
        alone = fit_power_law(SIZES, curve, floor=True)
        assert together.alpha[i] == pytest.approx(alone.alpha[0], rel=1e-12)


def test_a_floor_shows_as_curvature_and_a_pure_law_has_none() -> None:
    pure, with_floor = judge(SIZES, law()), judge(SIZES, law(floor=FLOOR))
    assert pure.curvature == pytest.approx(0.0, abs=1e-9) and pure.r2 == pytest.approx(1.0)
    assert with_floor.curvature > 0.01 and with_floor.rms > 0.01
    parabola = np.polyfit(np.log(SIZES), np.log(law(floor=FLOOR)), 2)
    assert with_floor.curvature == pytest.approx(2 * parabola[0], rel=1e-9)
    assert pure.alpha_least == pytest.approx(ALPHA) == pure.alpha_most


def test_one_model_off_the_line_is_named_and_the_exponent_is_said_to_depend_on_it() -> None:
    values = law()
    values[-1] *= 1.5
    found = judge(SIZES, values)
    assert found.worst == len(SIZES) - 1 and found.largest < -0.1
    assert found.alpha_least is not None and found.alpha_most == pytest.approx(ALPHA) and found.alpha_least < 0.3


def test_the_order_of_the_models_is_the_control() -> None:
    """Of 720 orders only the falling one falls as steeply; what does not depend on size is one order among them."""
    assert judge(SIZES, law()).p == pytest.approx(1 / 720)
    assert judge(SIZES, law()[::-1]).p == 1.0
    drawn = [judge(SIZES, np.random.default_rng(seed).uniform(1, 2, 6)).p for seed in range(40)]
    assert 0.35 < float(np.mean(drawn)) < 0.65


def test_a_measure_that_rises_has_no_floor_to_fall_to() -> None:
    found = fit_power_law(SIZES, law()[::-1], floor=True)
    assert found.bounded[0] and found.amplitude[0] == 0.0


@pytest.mark.parametrize(
    ("sizes", "values", "floor", "said"),
    [
        ([1, 2], [2, 1], False, "needs 3 different sizes"),
        ([1, 2, 2], [3, 2, 1], False, "there are 2"),
        ([1, 2, 3], [3, 2, 1], True, "needs 4 different sizes"),
        ([1, 2, 3], [3, 2, 0], False, "greater than 0"),
        ([1, 2, 3], [3, 2, np.nan], False, "finite"),
        ([1, 2, 3], [3, 2], False, "over sizes"),
    ],
)
def test_what_cannot_be_fitted_is_refused(sizes: list, values: list, floor: bool, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit_power_law(sizes, values, floor=floor)


def simulated(seed: int, floor: float, noise: float) -> tuple[NDArray[np.float64], list[int]]:
    """Losses (questions, models) around the law: questions of one document are hard together, for all models
    alike and for each in its own way. Three questions a document."""
    rng = np.random.default_rng(seed)
    documents = np.repeat(np.arange(60), 3)
    hard = rng.gamma(4, 1 / 4, 60)[documents, None]
    own = rng.gamma(1 / noise**2, noise**2, (60, len(SIZES)))[documents]
    each = rng.gamma(1 / noise**2, noise**2, (len(documents), len(SIZES)))
    return law(floor=floor) * hard * own * each, documents.tolist()


def coverage(floor: float, noise: float, *, grouped: bool = True, sets: int = 120) -> float:
    held = 0
    for seed in range(sets):
        values, documents = simulated(seed, floor, noise)
        groups = documents if grouped else list(range(len(documents)))
        drawn = resampled_means(values, groups=groups, seed=seed, resamples=300)
        alphas = fit_power_law(SIZES, drawn, floor=floor > 0).alpha
        low, high = np.quantile(alphas, [0.025, 0.975])
        held += low <= ALPHA <= high
    return held / sets


@pytest.mark.slow
def test_a_planted_exponent_lies_in_its_interval_as_often_as_this_says() -> None:
    """95 % within what 120 sets can tell (and a percentile interval of 60 documents is a little short)."""
    assert 0.89 <= coverage(0.0, 0.4) <= 0.99
    assert 0.89 <= coverage(FLOOR, 0.1) <= 1.0


def test_questions_of_one_document_taken_as_independent_give_too_short_intervals() -> None:
    assert coverage(0.0, 0.4, grouped=False) < 0.87


def test_a_resample_takes_the_same_documents_for_every_model() -> None:
    values, documents = simulated(0, 0.0, 0.4)
    same = np.repeat(values[:, :1], 4, axis=1)
    drawn = resampled_means(same, groups=documents, seed=1, resamples=50)
    assert np.allclose(drawn, drawn[:, :1], rtol=1e-12) and np.ptp(drawn[:, 0]) > 0
    assert resampled_means(values, groups=documents, seed=1, resamples=50)[:, 0] == pytest.approx(drawn[:, 0])
    with pytest.raises(UsageError, match="at least two"):
        resampled_means(values, groups=["a"] * len(values), seed=0, resamples=10)
