"""Change points of planted curves are found, noise has none, and phases are named by the curve that changes."""

from __future__ import annotations

import numpy as np
import pytest
from mplat.core.errors import UsageError
from mplat.interp.methods.change_points import FEWEST, best_ramp
from mplat.interp.methods.phases import PHASES, phase_of

X = np.linspace(0.0, 4.0, 33)  # steps of 0.125


def ramp(begins: float, ends: float, before: float, after: float) -> np.ndarray:
    return before + (after - before) * np.clip((X - begins) / (ends - begins), 0, 1)


@pytest.mark.parametrize(("begins", "ends"), [(1.0, 2.5), (0.0, 4.0), (3.0, 3.125), (0.5, 0.75)])
def test_a_ramp_without_noise_is_found_exactly(begins: float, ends: float) -> None:
    found = best_ramp(X, ramp(begins, ends, 3.4, 0.1), seed=0)
    assert found is not None
    assert found[:5] == pytest.approx((begins, ends, 3.4, 0.1, 1.0), abs=1e-9) and found.p == pytest.approx(1e-3)
    assert (found.begins_low, found.begins_high, found.ends_low, found.ends_high) == (begins, begins, ends, ends)


def test_with_noise_the_interval_holds_the_change_point_about_as_often_as_it_says() -> None:
    held = near = 0
    for seed in range(60):
        noise = 0.25 * np.random.default_rng(seed).standard_normal(len(X))
        found = best_ramp(X, ramp(1.5, 2.5, 3.0, 0.0) + noise, seed=seed, draws=19)
        assert found is not None
        held += found.begins_low <= 1.5 <= found.begins_high
        near += abs(found.begins - 1.5) <= 0.375
    assert held >= 54 and near >= 50


def test_noise_has_no_change_that_shuffled_curves_do_not_have() -> None:
    found = [
        best_ramp(X, np.random.default_rng(seed).standard_normal(len(X)), seed=seed, draws=99) for seed in range(40)
    ]
    assert sum(one is not None and one.p <= 0.05 for one in found) <= 6


def test_what_is_no_curve_has_no_ramp() -> None:
    assert best_ramp(X, np.ones(len(X)), seed=0) is None
    assert best_ramp(X[: FEWEST - 1], X[: FEWEST - 1], seed=0) is None
    with pytest.raises(UsageError, match="ascend"):
        best_ramp(X[::-1], X, seed=0)
    with pytest.raises(UsageError, match="finite"):
        best_ramp(X, np.full(len(X), np.nan), seed=0)


def phase(name: str, curve: dict[int, float]):
    return phase_of(PHASES[name], curve, seed=0, draws=99, confidence=0.95)


def test_phases_of_a_planted_training() -> None:
    """Loss of what is trained on falls from step 10 to 100, excluded loss falls with it and rises from 316 to 3162,
    loss of what is held out falls from 1000 to 10000."""
    steps = [round(10**x) for x in X[4:]]  # each once
    at = {step: np.log10(step) for step in steps}

    def between(x: float, a: float, b: float) -> float:
        return min(1.0, max(0.0, (x - a) / (b - a)))

    train = {s: float(np.exp(1.2 - 6 * between(x, 1, 2))) for s, x in at.items()}
    excluded = {s: float(np.exp(1.2 - 4 * between(x, 1, 2) + 4 * between(x, 2.5, 3.5))) for s, x in at.items()}
    held_out = {s: float(np.exp(1.2 + between(x, 1, 2) - 6 * between(x, 3, 4))) for s, x in at.items()}
    found = {name: phase(name, curve).ramp for name, curve in (
        ("memorisation", train), ("circuit formation", excluded), ("cleanup", held_out))}  # fmt: skip
    planted = {"memorisation": (10, 100), "circuit formation": (316, 3162), "cleanup": (1000, 10_000)}
    for name, (begins, ends) in planted.items():
        assert found[name] is not None and (found[name].begins, found[name].ends) == (begins, ends), name
    levels = found["cleanup"].before, found["cleanup"].after
    assert levels == pytest.approx((np.exp(2.2), np.exp(2.2 - 6)))


def test_a_training_that_never_generalises_has_no_cleanup() -> None:
    flat_then_up = {10**k: 3.4 + 0.5 * k for k in range(7)}
    assert phase("cleanup", flat_then_up).ramp is None
    assert phase("circuit formation", {10**k: 3.4 - 0.5 * k for k in range(7)}).ramp is None
    found = phase("memorisation", flat_then_up)
    assert found.ramp is None and found.reason == "the curve does not fall"
    assert "has no logarithm" in (phase("memorisation", {10**k: float(5 - k) for k in range(7)}).reason or "")
    assert "2 checkpoints" in (phase("weights", {1: 2.0, 2: 1.0}).reason or "")
