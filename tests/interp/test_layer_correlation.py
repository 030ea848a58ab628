"""Similarity of representations: invariances, an independent reference, chance, and models beside themselves."""

from __future__ import annotations

import numpy as np
import pytest
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.interp.engine.batches import Item
from mplat.interp.methods.representation_similarity import hsic, prepared, similarity

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 7)) * np.arange(1, 8), RNG.standard_normal((60, 90))


def of(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    a, b = prepared(x), prepared(y)
    assert a is not None and b is not None
    return similarity(a, b)


def test_rotation_scale_and_shift_change_nothing(rng: np.random.Generator) -> None:
    turn = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    y = X @ rng.standard_normal((7, 5)) + rng.standard_normal((60, 5))
    assert of(X @ turn * 3.7 + 11, y) == pytest.approx(of(X, y))
    assert of(X @ turn * 3.7 + 11, X) == pytest.approx({"cka": 1.0, "svcca": 1.0, "procrustes": 1.0})


def test_cka_is_the_u_statistic_of_the_gram_matrices() -> None:
    """Song et al. 2012, equation 4, written down with the matrices."""

    def reference(x: np.ndarray, y: np.ndarray) -> float:
        n, one = len(x), np.ones(len(x))
        k, m = ((v @ v.T) * (1 - np.eye(n)) for v in (x, y))
        rest = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one
        return (np.trace(k @ m) + rest) / (n * (n - 3))

    assert hsic(X, Y) == pytest.approx(reference(X, Y), rel=1e-9)
    expected = reference(X, Y) / np.sqrt(reference(X, X) * reference(Y, Y))
    assert of(X, Y)["cka"] == pytest.approx(expected, rel=1e-8)


def test_unrelated_vectors_are_about_0_in_cka_alone(rng: np.random.Generator) -> None:
    draws = [of(rng.standard_normal((60, 90)), rng.standard_normal((60, 90))) for _ in range(12)]
    assert abs(np.mean([d["cka"] for d in draws])) < 0.03
    assert min(d["svcca"] for d in draws) > 0.9  # more directions than vectors: anything correlates


def test_svcca_is_the_mean_canonical_correlation_and_procrustes_the_best_rotation(rng: np.random.Generator) -> None:
    y = X @ rng.standard_normal((7, 4)) + 3 * rng.standard_normal((60, 4))
    a, b = prepared(X), prepared(y)
    assert a is not None and b is not None
    x1, y1 = a.directions, b.directions
    block = np.linalg.inv(x1.T @ x1) @ x1.T @ y1 @ np.linalg.inv(y1.T @ y1) @ y1.T @ x1
    roots = np.sqrt(np.sort(np.linalg.eigvals(block).real)[::-1][: min(x1.shape[1], y1.shape[1])].clip(0))
    found = similarity(a, b)
    assert found["svcca"] == pytest.approx(roots.mean())
    left, _, right = np.linalg.svd(b.unit.T @ a.unit, full_matrices=False)
    assert found["procrustes"] == pytest.approx(float(((b.unit @ left @ right) * a.unit).sum()))


def test_a_model_beside_itself_and_beside_another() -> None:
    items = [Item(item.id, item.prompt, item.answer) for item in token_items(12)]
    first, second = nano("mamba2"), nano("mamba2", seed=5)
    table = run_step("layer_correlation", first, items, others=(first, second), draws=20)[""]
    rows = [row for row in table.to_pylist() if row["measure"] == "cka"]
    assert len(rows) == 1 + 4 + 4
    own = [row for row in rows if row["other_model"].endswith("(2)")]
    assert [row["value"] for row in own if row["layer"] == row["other_layer"]] == pytest.approx([1.0, 1.0])
    assert next(r["value"] for r in own if (r["layer"], r["other_layer"]) == (1, 0)) == pytest.approx(rows[0]["value"])
    for row in rows:
        assert row["null"] == "tokens within prompts" and row["low"] <= row["value"] <= row["high"]
    assert rows[0]["value"] > rows[0]["shuffled_high"] and rows[0]["p"] == pytest.approx(1 / 21)


def test_a_site_that_does_not_vary_and_one_block_alone_say_so() -> None:
    (row,) = run_step("layer_correlation", nano("mamba2"), token_items(3), layers=[0], draws=2)[""].to_pylist()
    assert (row["status"], row["value"]) == ("not_applicable", None)
    assert prepared(np.ones((8, 3))) is None and prepared(np.zeros((3, 3))) is None
