"""Attribution-based parameter decomposition (APD; Braun, Bushnaq, Heimersheim, Mendel and Sharkey 2025, arXiv
2501.14926).

All chosen matrices together are a sum of C parameter components P_c, each of a part in every matrix. At an example
those are used that matter most by a linear estimate, and with these alone the function must say what it says:

    A_c = sqrt(mean over outputs o of <df_o/dW, P_c>^2);     the k B largest of a batch of B examples are active
    L = faithfulness + b1 D(f(x | sum of active P_c), f(x)) + a (mean over examples of the sum over active c of
    |P_c|_p^p)

|P|_p^p is the Schatten quasi-norm, the sum of singular values to the power p, which prefers low rank. Here a
component's part in a matrix is a sum of m products of vectors, and the penalty the sum of (|u| |v|)^p over these: its
smallest value over all such sums is Schatten's, so the minimum is the same, without a singular value decomposition at
every step. A row of a depthwise convolution is a vector: a component has a share of it.

The number k of components an example uses has to be known beforehand; what is found depends on it (SPD, section 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .matrix_function import Divergence, Layer, Matrix, MatrixFunction, clean_pass, product
from .rank_one import start

#: name -> tensor: `U/name` (out, C, m) and `V/name` (C, m, in), or `share/name` (C, rows)
Parameters = Mapping[str, Tensor]
_TINY = 1e-12  # under the root of a squared length, whose slope at 0 is infinite for p < 1


@dataclass(frozen=True)
class Weights:
    """Factors of the parts of the loss; used: components an example uses on average (k). probes: directions in the
    outputs whose slopes stand for those of all outputs, 0 for every output by itself. power: p of the penalty."""

    used: float
    faithfulness: float = 1.0
    minimality: float = 1.0
    simplicity: float = 0.7
    power: float = 0.9
    probes: int = 0


class Parts(NamedTuple):
    """The parts of the loss before their factors."""

    faithfulness: Tensor
    minimality: Tensor
    simplicity: Tensor


def start_components(function: MatrixFunction, count: int, rank: int, seed: int) -> dict[str, Tensor]:
    """`count` components of `rank` products in each matrix, whose sum is the matrix where their number allows."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, matrix in sorted(function.matrices.items()):
        if matrix.acting == "rows":
            share = torch.rand(count, len(matrix.weight), generator=generator, dtype=torch.float64)
            found[f"share/{name}"] = (share / share.sum(0)).to(matrix.weight)
            continue
        ones = start(matrix.weight, count * rank, generator)
        found[f"U/{name}"] = ones.U.reshape(-1, count, rank)
        found[f"V/{name}"] = ones.V.reshape(count, rank, -1)
    return found


def components_of(matrix: Matrix, parameters: Parameters, name: str) -> Tensor:
    """The parts (C, out, in) of all components in one matrix."""
    if matrix.acting == "rows":
        return parameters[f"share/{name}"][..., None] * matrix.weight
    return torch.einsum("ocm,cmi->coi", parameters[f"U/{name}"], parameters[f"V/{name}"])


def active_layer(matrix: Matrix, parameters: Parameters, name: str, active: Tensor) -> Layer:
    """The layer a -> (sum over c of active[b, c] P_c) a of example b; active (B, C), a (B, ..., in)."""

    def layer(a: Tensor) -> Tensor:
        between = a.ndim - (1 if matrix.acting == "lookup" else 2)
        of_example = active.reshape(len(active), *[1] * between, -1)
        if matrix.acting == "rows":
            return a * (of_example @ parameters[f"share/{name}"])
        h = torch.unflatten(_inner(matrix, parameters, name, a), -1, parameters[f"V/{name}"].shape[:2])
        return F.linear((h * of_example[..., None]).flatten(-2), parameters[f"U/{name}"].flatten(1))

    return layer


def attributions(
    function: MatrixFunction,
    parameters: Parameters,
    examples: Tensor,
    probes: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A (B, C) of each component at each example; the function has one row of outputs for each example.

    probes: 0 takes the mean over outputs as it is, one backward pass for each; else that many random signs of all
    outputs, drawn from `generator`, whose mean square is the same in expectation.
    """
    inputs: dict[str, Tensor] = {}
    products: dict[str, Tensor] = {}

    def watched(name: str, matrix: Matrix) -> Layer:
        def layer(a: Tensor) -> Tensor:
            inputs[name] = a.detach()
            y = product(matrix, a)
            products[name] = y if y.requires_grad else y.requires_grad_()
            return products[name]

        return layer

    matrices = function.matrices
    with torch.enable_grad():
        outputs = function(examples, {name: watched(name, matrix) for name, matrix in matrices.items()})
    n_outputs = outputs.shape[1]
    squares: list[Tensor] = []
    for number in range(probes or n_outputs):
        if probes:
            signs = torch.randint(0, 2, outputs.shape, generator=generator).to(outputs) * 2 - 1
        else:
            signs = torch.zeros_like(outputs)
            signs[:, number] = 1.0
        wanted = list(products)
        slopes = torch.autograd.grad(outputs, [products[n] for n in wanted], signs, retain_graph=True)
        with torch.no_grad():
            along = [
                _along(matrices[n], parameters, n, inputs[n], slope) for n, slope in zip(wanted, slopes, strict=True)
            ]
            squares.append(torch.stack(along).sum(0) ** 2)
    # random signs sum over outputs, of which the definition takes the mean
    return (torch.stack(squares).mean(0) / (n_outputs if probes else 1)).sqrt()


def batch_top(attribution: Tensor, used: float) -> Tensor:
    """1 for the round(used B) largest of all attributions (B, C) of a batch, at least one; 0 for the others."""
    count = min(max(1, round(used * len(attribution))), attribution.numel())
    active = torch.zeros_like(attribution).flatten()
    active[attribution.flatten().topk(count).indices] = 1.0
    return active.reshape(attribution.shape)


def simplicity(function: MatrixFunction, parameters: Parameters, active: Tensor, power: float) -> Tensor:
    """Mean over examples of the sum over active components of the sum of (|u| |v|)^power; active (B, C)."""
    each = active.new_zeros(active.shape[1])
    for name, matrix in sorted(function.matrices.items()):
        if matrix.acting == "rows":
            squared = (parameters[f"share/{name}"] ** 2) * (matrix.weight**2).sum(1)
        else:
            squared = (parameters[f"U/{name}"] ** 2).sum(0) * (parameters[f"V/{name}"] ** 2).sum(2)
        each = each + ((squared + _TINY) ** (power / 2)).sum(1)
    return (active * each).sum(1).mean()


def parts_of_loss(
    function: MatrixFunction,
    parameters: Parameters,
    examples: Tensor,
    generator: torch.Generator,
    weights: Weights,
    divergence: Divergence,
) -> Parts:
    """The parts of the loss at these examples, differentiable in the parameters but for the choice of the active."""
    clean = clean_pass(function, examples)
    active = batch_top(attributions(function, parameters, examples, weights.probes, generator), weights.used)
    layers = {n: active_layer(m, parameters, n, active) for n, m in function.matrices.items()}
    errors = [
        ((matrix.weight - components_of(matrix, parameters, name).sum(0)) ** 2).sum()
        for name, matrix in sorted(function.matrices.items())
    ]
    count = sum(matrix.weight.numel() for matrix in function.matrices.values())
    return Parts(
        torch.stack(errors).sum() / count,
        divergence(function(examples, layers), clean.outputs),
        simplicity(function, parameters, active, weights.power),
    )


def total(parts: Parts, weights: Weights) -> Tensor:
    """Their sum with the factors."""
    return (
        weights.faithfulness * parts.faithfulness
        + weights.minimality * parts.minimality
        + weights.simplicity * parts.simplicity
    )


def _inner(matrix: Matrix, parameters: Parameters, name: str, a: Tensor) -> Tensor:
    V = parameters[f"V/{name}"].flatten(0, 1)
    return F.linear(a, V) if matrix.acting == "dense" else V.T[a]


def _along(matrix: Matrix, parameters: Parameters, name: str, a: Tensor, slope: Tensor) -> Tensor:
    """<df/dW, P_c> (B, C), where f has the slope (B, ..., out) in the products of the matrix with its inputs a."""
    if matrix.acting == "rows":
        return (a * slope).reshape(len(a), -1, a.shape[-1]).sum(1) @ parameters[f"share/{name}"].T
    pairs = _inner(matrix, parameters, name, a) * F.linear(slope, parameters[f"U/{name}"].flatten(1).T)
    of_example = pairs.reshape(len(a), -1, pairs.shape[-1]).sum(1)
    return torch.unflatten(of_example, -1, parameters[f"V/{name}"].shape[:2]).sum(-1)
