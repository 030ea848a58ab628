"""What `bottlenecks` says of detectors and layers: planted channels and layers stand out, exchangeable ones do not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.core.errors import UsageError
from mplat.interp.methods.detector_statistics import compare_detectors, overlap_p
from mplat.interp.methods.layer_signals import MEASURES, signals, spikes
from mplat.interp.methods.planted_figures import FIGURES
from mplat.scoring.statistics import Resampling
from mplat.steering.answered import Asked, batches
from mplat.steering.detectors import detector_names, find_detector, observe

ROOT = Path(__file__).resolve().parents[2]
HOW = Resampling(0, 0.95, 60)
PLANTED = (3, 17)


def sums(seed: int, *, planted: float = 1.0, n: int = 30, channels: int = 24) -> torch.Tensor:
    """Sums of n texts of 5 tokens whose channels are alike; the planted ones are as many times as loud and heard."""
    rng = np.random.default_rng(seed)
    x, g = rng.normal(size=(2, n, 5, channels))
    x[:, :, PLANTED], g[:, :, PLANTED] = planted * x[:, :, PLANTED] + (planted > 1), planted * g[:, :, PLANTED]
    parts = [(x * g).sum(1), g.sum(1), (x * x).sum(1), (g * g).sum(1), x.sum(1), np.full((n, channels), 5.0)]
    return torch.tensor(np.stack(parts, 1))


def test_planted_channels_stand_out_and_exchangeable_ones_do_not() -> None:
    names = ["gradient_norm", "variance"]
    groups = [f"document {i // 2}" for i in range(30)]
    found, (pair,) = compare_detectors(sums(0, planted=4.0), groups, names, top=2, how=HOW, draws=39)
    for one in found:
        assert sorted(np.argsort(-one.key)[:2].tolist()) == list(PLANTED)
        assert one.in_top is not None and one.low is not None and one.high is not None
        assert one.in_top[list(PLANTED)].min() == 1 and one.in_top.sum() == pytest.approx(2)
        assert (one.p[list(PLANTED)] == 1 / 40).all() and np.delete(one.p, PLANTED).min() > 0.05
        assert (one.low <= one.score + 1e-12).mean() > 0.9 and (one.high >= one.score - 1e-12).mean() > 0.9
    assert (pair.overlap, pair.expected) == (2, pytest.approx(4 / 24)) and pair.p == pytest.approx(1 / (24 * 23 / 2))
    alarms = []
    for seed in range(8):
        alike, _ = compare_detectors(sums(seed + 1), groups, names, top=2, how=Resampling(0, 0.95, 2), draws=39)
        alarms += [float(one.p.min()) for one in alike]
    assert np.mean(np.array(alarms) <= 0.05) < 0.25 and np.mean(alarms) > 0.3  # 16 of them; uniform by chance


def test_one_group_has_no_interval_and_wrong_numbers_are_refused() -> None:
    (one,), pairs = compare_detectors(sums(0), ["a"] * 30, ["variance"], top=1, how=HOW, draws=19)
    assert one.low is None and one.in_top is None and pairs == []
    with pytest.raises(UsageError, match="do not fit"):
        compare_detectors(sums(0), ["a"] * 30, ["variance"], top=25, how=HOW, draws=19)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(12, 40))
def test_the_overlap_of_random_sets_is_hypergeometric(top: int, channels: int) -> None:
    from scipy.stats import hypergeom

    for overlap in range(top + 1):
        assert overlap_p(overlap, top, channels) == pytest.approx(hypergeom.sf(overlap - 1, channels, top, top))


def test_a_planted_layer_spikes_and_layers_alike_do_not() -> None:
    rng = np.random.default_rng(0)
    layers, n, channels = 5, 40, 30
    vectors = rng.normal(size=(layers, n, channels))
    energy, heard = rng.uniform(1, 2, size=(2, layers, n, channels))
    groups = [""] * n
    alike = signals(vectors, energy, heard, groups, how=HOW, draws=99)
    assert min(float(one.p.min()) for one in alike) > 0.01
    vectors[2] = rng.normal(size=(n, 2)) @ rng.normal(size=(2, channels)) + 0.01 * vectors[2]
    energy[2, :, :25] *= 1e-3
    heard[2] *= 50
    for one in signals(vectors, energy, heard, groups, how=HOW, draws=99):
        assert int(np.abs(one.spike).argmax()) == 2 and one.p[2] == 0.01, one.measure
        assert one.low is not None and one.high is not None and one.spike_low is not None
        assert (one.low <= one.value).all() and (one.value <= one.high).all()
        assert one.spike_high is not None and (one.spike_low[2] > 0 or one.spike_high[2] < 0)
    with pytest.raises(UsageError, match="two layers"):
        signals(vectors[:1], energy[:1], heard[:1], groups, how=HOW, draws=19)


def test_measures_of_layers_by_hand() -> None:
    vectors = np.zeros((2, 4, 3))
    vectors[0, :2] = [[1, 0, 0], [-1, 0, 0]]
    vectors[1] = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]
    energy = np.ones((2, 4, 3)) * [1, 1, 2]
    found = signals(vectors, energy, np.full((2, 4, 3), 3.0), ["a"] * 4, how=HOW, draws=19)
    rank, entropy, gradient = found
    assert [one.measure for one in found] == list(MEASURES) and rank.low is None
    np.testing.assert_allclose(rank.value, [1, 2])
    np.testing.assert_allclose(rank.spike, [-1, 1])
    np.testing.assert_allclose(entropy.value, (0.5 * np.log(4) + 0.5 * np.log(2)) / np.log(3))
    np.testing.assert_allclose(gradient.value, np.log(6))
    assert spikes(np.array([1.0, 5.0, 3.0])).tolist() == [-4, 3, -2]


def test_the_step_says_what_the_detectors_of_steering_say() -> None:
    model, items = nano("mamba"), token_items(8)
    upstream = {name: run_step(name, model, items) for name in ("attribution", "delta_sensitivity")}
    small: dict[str, Any] = {
        "resamples": 100,
        "random_draws": 1,
        "detector_resamples": 20,
        "detector_draws": 19,
        "layer_draws": 19,
    }
    found = run_step("bottlenecks", model, items, upstream=upstream, detector_share=0.2, **small)
    site = "blocks.1.mixer_out"
    asked = [Asked(item.id, item.id, item.prompt, item.answer) for item in items]
    seen = observe(model, batches(asked), [site])[site]
    rows = [r for r in found["detectors"].to_pylist() if (r["layer"], r["site"]) == (1, "mixer_out")]
    assert {r["detector"] for r in rows} == {*detector_names()}
    for name in detector_names():
        here = sorted((r for r in rows if r["detector"] == name), key=lambda r: r["rank"])
        detector = find_detector(name)
        assert [r["channel"] for r in here] == detector.order(seen)[:5]
        expected = detector(seen)[[r["channel"] for r in here]]
        np.testing.assert_allclose([r["score"] for r in here], expected, rtol=1e-6, atol=1e-9)
        assert all(r["n_prompts"] == 8 and 0 < r["p"] <= 1 and r["signed"] == detector.signed for r in here)
    pairs = len(detector_names()) * (len(detector_names()) - 1) // 2
    assert found["agreement"].num_rows == pairs * 2 * 2  # two blocks, two sites
    assert found["layers"].num_rows == 2 * 2 * len(MEASURES)
    assert found["planted"].num_rows == len(FIGURES)


def test_the_planted_figures_are_those_that_were_measured() -> None:
    spec = importlib.util.spec_from_file_location("detectors_benchmark", ROOT / "benchmarks" / "detectors.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    rows = benchmark.figures(json.loads(benchmark.RESULTS.read_text()))
    assert len(rows) == len(FIGURES) > 0
    for row, figure in zip(rows, FIGURES, strict=True):
        assert row[:3] == figure[:3] and row[-1] == figure.found
        for measured, shipped in zip(row[3:-1], figure[3:-1], strict=True):
            assert shipped == (None if measured is None else pytest.approx(measured, abs=1e-3))
