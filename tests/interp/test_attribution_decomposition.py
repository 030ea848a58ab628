"""APD: attributions of components, which of them a batch uses, and a toy model that is recovered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from mplat.interp.engine.fitting import Fitted, Minibatch, Schedule, fit
from mplat.interp.methods import apd
from mplat.interp.methods.matrix_function import (
    Matrix,
    MatrixFunction,
    mean_squares,
)
from torch import Tensor
from toy_functions import Superposition

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def fitted(
    function: MatrixFunction, parameters: Mapping[str, Tensor], loss: Callable[..., Tensor], schedule: Schedule
) -> Fitted:
    return fit("toy", parameters, loss, examples=len(function.data), schedule=schedule, seed=0)


def test_an_attribution_is_the_root_mean_square_over_outputs_of_the_slope_along_a_component() -> None:
    toy = Superposition(rows=20, active=0.5, dtype=F64)
    examples = torch.arange(6)
    parameters = apd.start_components(toy, 4, 2, seed=0)
    found = apd.attributions(toy, parameters, examples)
    parts = {name: apd.components_of(toy.matrices[name], parameters, name) for name in ("in", "out")}
    for b in range(6):

        def f(w_in: Tensor, w_out: Tensor, x: Tensor = toy.data[b]) -> Tensor:
            return torch.relu(w_out @ (w_in @ x) - 0.27)

        slopes = torch.autograd.functional.jacobian(f, (toy.weights["in"], toy.weights["out"]))
        for c in range(4):
            along = sum((s * parts[n][c]).sum((1, 2)) for s, n in zip(slopes, ("in", "out"), strict=True))
            assert float(found[b, c]) == pytest.approx(float((along**2).mean().sqrt()), abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    estimated = apd.attributions(toy, parameters, examples, 2000, generator)
    assert torch.allclose(estimated, found, rtol=0.2, atol=1e-6) and not torch.equal(estimated, found)


def test_the_largest_attributions_of_a_batch_are_active_and_only_they_act() -> None:
    attribution = torch.tensor([[5.0, 1.0, 0.1], [4.0, 3.0, 2.0]], dtype=F64)
    active = apd.batch_top(attribution, 1.5)
    assert active.tolist() == [[1, 0, 0], [1, 1, 0]]
    assert apd.batch_top(attribution, 0.1).sum() == 1 and apd.batch_top(attribution, 9.0).sum() == 6
    toy = Superposition(rows=20, active=0.5, dtype=F64)
    parameters = apd.start_components(toy, 3, 2, seed=0)
    x = drawn(2, 5, seed=7)
    found = apd.active_layer(toy.matrices["in"], parameters, "in", active)(x)
    parts = apd.components_of(toy.matrices["in"], parameters, "in")
    assert torch.allclose(parts.sum(0), toy.W, atol=1e-12)
    assert torch.allclose(found, torch.stack([parts[0] @ x[0], (parts[0] + parts[1]) @ x[1]]), atol=1e-12)


def test_simplicity_is_schattens_power_of_the_active_components_where_their_vectors_are_orthogonal() -> None:
    toy = Superposition(rows=4, dtype=F64, only=("in",))
    parts = drawn(3, 2, 5)
    left, sizes, right = torch.linalg.svd(parts, full_matrices=False)
    parameters = {"U/in": (left * sizes[:, None]).permute(1, 0, 2), "V/in": right}
    active = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=F64)
    each = (sizes**0.9).sum(1)
    assert torch.allclose(apd.components_of(toy.matrices["in"], parameters, "in"), parts, atol=1e-12)
    expected = float((each[0] + each[2] + each[1]) / 2)
    assert float(apd.simplicity(toy, parameters, active, 0.9)) == pytest.approx(expected, rel=1e-9)
    # any other sum of products for the same matrix costs at least as much
    turn = torch.linalg.qr(drawn(2, 2, seed=5))[0]
    other = {"U/in": parameters["U/in"] @ turn, "V/in": turn.T @ right}
    assert torch.allclose(apd.components_of(toy.matrices["in"], other, "in"), parts, atol=1e-12)
    assert float(apd.simplicity(toy, other, active, 0.9)) > expected


def test_a_row_of_a_convolution_is_shared_out_among_components() -> None:
    matrix = Matrix(drawn(4, 3), "rows")
    parameters = {"share/conv": torch.softmax(drawn(2, 4), 0)}
    assert torch.allclose(apd.components_of(matrix, parameters, "conv").sum(0), matrix.weight)
    a = drawn(2, 6, 4)
    active = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=F64)
    found = apd.active_layer(matrix, parameters, "conv", active)(a)
    assert torch.allclose(found[0], a[0]) and torch.allclose(found[1], a[1] * parameters["share/conv"][1])


@pytest.mark.slow
def test_apd_recovers_the_toy_model_of_superposition() -> None:
    toy = Superposition(rows=16384, only=("in",))
    weights = apd.Weights(used=1.0, simplicity=0.03)

    def loss(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
        parts = apd.parts_of_loss(toy, parameters, batch.examples, batch.generator, weights, mean_squares)
        return apd.total(parts, weights)

    found = fitted(toy, apd.start_components(toy, 10, 2, seed=0), loss, Schedule(1000, 128, 5e-3)).parameters
    parts = apd.components_of(toy.matrices["in"], found, "in").flatten(1)
    truth = toy.mechanisms()["in"].flatten(1)
    cosine = (truth / truth.norm(dim=1, keepdim=True)) @ (parts / parts.norm(dim=1, keepdim=True)).T
    assert float(cosine.max(1).values.mean()) > 0.95
    assert torch.allclose(parts.sum(0).reshape(2, 5), toy.W, atol=0.05)
