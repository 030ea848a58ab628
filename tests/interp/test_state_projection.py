"""Principal components of planted trajectories are the planted ones, and states are those that the model has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from interp_jobs import run_step, token_items
from model_zoo import nano
from mplat.core.errors import InputError, UsageError
from mplat.interp.engine.batches import Item
from mplat.interp.methods.projection import principal_components, random_walk_ratio
from mplat.interp.steps.state_projection import AXES

ITEMS = token_items(5)


def planted(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A spiral of 50 points in a plane of 30 dimensions, away from the origin: points, and their plane coordinates."""
    generator = np.random.default_rng(0)
    t = np.linspace(0, 4 * np.pi, 50)
    flat = np.stack([3 * t * np.cos(t), t * np.sin(t)], 1)
    basis, _ = np.linalg.qr(generator.standard_normal((30, 2)))
    return flat @ basis.T + 7.0 + noise * generator.standard_normal((50, 30)), flat


def test_a_planted_plane_is_found_with_all_of_its_variance() -> None:
    points, flat = planted()
    found = principal_components(points, 3)
    assert found.ratio.tolist() == pytest.approx([*found.ratio[:2], 0.0], abs=1e-12)
    assert found.ratio.sum() == pytest.approx(1.0)
    # the picture is the spiral, turned: distances between points are kept
    shown, truth = (np.linalg.norm(c[:, None] - c[None], axis=2) for c in (found.coordinates, flat))
    np.testing.assert_allclose(shown, truth, atol=1e-9)
    np.testing.assert_allclose(found.mean, points.mean(0))
    rebuilt = found.mean + found.coordinates @ found.components
    np.testing.assert_allclose(rebuilt, points, atol=1e-9)


def test_a_random_walk_has_the_large_first_components_that_stand_beside_those_of_a_state() -> None:
    walk = np.random.default_rng(0).standard_normal((60, 20_000)).cumsum(0)
    found = principal_components(walk, 4).ratio
    assert found.tolist() == pytest.approx([random_walk_ratio(i, 60) for i in range(4)], rel=0.03)
    assert sum(random_walk_ratio(i, 60) for i in range(59)) == pytest.approx(1.0)
    assert random_walk_ratio(0, 10**6) == pytest.approx(6 / np.pi**2) and random_walk_ratio(3, 4) == 0.0


def test_components_are_the_eigenvectors_of_the_covariance() -> None:
    points, _ = planted(noise=2.0)
    found = principal_components(points, 3)
    values, vectors = np.linalg.eigh(np.cov(points.T))
    np.testing.assert_allclose(found.variance, values[::-1][:3], rtol=1e-9)
    np.testing.assert_allclose(found.ratio, values[::-1][:3] / values.sum(), rtol=1e-9)
    np.testing.assert_allclose(np.abs((found.components * vectors[:, ::-1][:, :3].T).sum(1)), 1.0, rtol=1e-9)
    np.testing.assert_allclose(found.coordinates.var(0, ddof=1), found.variance)


def test_the_sign_is_fixed_by_the_largest_coordinate() -> None:
    points, _ = planted(noise=1.0)
    for shown in (points, points[::-1], 2 * points + 5):
        coordinates = principal_components(shown, 3).coordinates
        assert (coordinates[np.abs(coordinates).argmax(0), range(3)] > 0).all()
    np.testing.assert_allclose(
        principal_components(points[::-1], 3).coordinates[::-1], principal_components(points, 3).coordinates, atol=1e-8
    )


@pytest.mark.parametrize(
    ("points", "k", "error", "message"),
    [
        (np.ones((5, 4)), 2, InputError, "the same"),
        (np.ones((1, 4)), 2, InputError, "two points"),
        (np.array([[0.0, 1.0], [np.inf, 2.0]]), 1, InputError, "not finite"),
        (np.ones((5, 4)), 5, UsageError, "1 to 4"),
        (np.ones(5), 1, UsageError, "shape"),
    ],
)
def test_what_has_no_direction_is_refused(points: np.ndarray, k: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        principal_components(points, k)


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "striped_hyena", "stable_mamba_attached"])
def test_the_path_is_that_of_the_models_states_token_by_token(arch: str) -> None:
    """States come from decoding one token after the other, without captures."""
    model = nano(arch)
    tables = run_step("state_projection", model, ITEMS, texts=2)
    item = ITEMS[0]
    states, state = [], None
    with torch.no_grad():
        for token in item.prompt:
            _, state = model(torch.tensor([[token]]), state=state, return_state=True)
            states.append(state.layers[0]["h"][0].flatten().numpy())
    expected = principal_components(np.stack(states), 3)
    here = {"question_id": item.id, "layer": 0, "site": "mixer.h"}
    path = [row for row in tables["paths"].to_pylist() if {name: row[name] for name in here} == here]
    assert [row["position"] for row in path] == list(range(len(item.prompt)))
    assert [row["token"] for row in path] == list(item.prompt)
    np.testing.assert_allclose([[row[a] for a in AXES] for row in path], expected.coordinates, atol=1e-9)
    stated = [row for row in tables["components"].to_pylist() if {name: row[name] for name in here} == here]
    np.testing.assert_allclose([row["variance_ratio"] for row in stated], expected.ratio, atol=1e-9)
    assert [row["variance_ratio_walk"] for row in stated] == [
        random_walk_ratio(row["component"], row["tokens"]) for row in stated
    ]
    assert {row["question_id"] for row in tables["paths"].to_pylist()} == {"q0", "q2"}


def test_a_layer_without_a_state_a_text_of_one_token_and_broken_states_say_so() -> None:
    assert {row["status"] for row in run_step("state_projection", nano("hyena"), ITEMS)["paths"].to_pylist()} == {
        "not_applicable"
    }
    model = nano("mamba")
    (row, _) = run_step("state_projection", model, [Item("short", (3,), (1,))])["paths"].to_pylist()
    assert (row["status"], row["x"]) == ("bad_input", None)
    with torch.no_grad():
        model.backbone.embeddings.weight[7] = float("nan")
    rows = run_step("state_projection", model, [Item("broken", (1, 7, 2), (1,))])["components"].to_pylist()
    assert {(row["status"], row["variance_ratio"]) for row in rows} == {("model_nonfinite", None)}


def test_a_picture_in_the_plane_has_two_coordinates() -> None:
    rows = run_step("state_projection", nano("mamba"), ITEMS, components=2, texts=1)["paths"].to_pylist()
    assert all(row["z"] is None and row["y"] is not None for row in rows)
