"""Stochastic parameter decomposition (SPD; Bushnaq, Braun and Sharkey 2025, arXiv 2506.20790).

Every matrix becomes a sum of rank-one components, W ~ U V. An example's causal importances g say how far each component
may be taken away: masks m = g + (1 - g) r with r drawn from U(0, 1) must leave the function's outputs as they are,
whatever is drawn, while as little as possible is called important:

    L = faithfulness + b1 D(f(x | U diag(m) V), f(x)) + b2 (the same, one matrix at a time) + b3 minimality

A row of a depthwise convolution is a matrix of rank one already: its components are given, only importances are
learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .causal_importance import Gate, lower_leaky, minimality, raw_importance, start_gate
from .matrix_function import Clean, Divergence, Layer, Matrix, MatrixFunction, clean_pass, product
from .rank_one import RankOnes, faithfulness, start

#: name of a tensor -> tensor: `U/name`, `V/name` and `w_in/name` ... of each matrix
Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Losses:
    """Factors of the parts of the loss; defaults are those of the paper's toy model of superposition. power: p of the
    minimality. samples: masks drawn for each example and step (S).

    begin: what the minimality begins with where training falls to it, see `at`; None: it is the same all the time."""

    faithfulness: float = 1.0
    stochastic: float = 1.0
    layerwise: float = 1.0
    minimality: float = 3e-3
    power: float = 1.0
    samples: int = 1
    begin: float | None = None

    def at(self, done: float) -> Losses:
        """The factors when a share `done` of the training is done: the minimality stays for half of it and then falls
        linearly, to its end when five sixths are done.

        A penalty that is large at first sorts out which component sees what, while importances lie between 0 and 1 and
        have slopes; one that stayed large would leave important ones below 1.
        """
        if self.begin is None:
            return self
        left = min(1.0, max(0.0, (5 / 6 - done) * 3))
        return replace(self, minimality=self.minimality + (self.begin - self.minimality) * left)


class Parts(NamedTuple):
    """The parts of the loss before their factors, each a number; stochastic and layerwise are None where unused."""

    faithfulness: Tensor
    minimality: Tensor
    stochastic: Tensor | None
    layerwise: Tensor | None


def ones_of(parameters: Parameters, name: str) -> RankOnes:
    """The components of a matrix that is not of rows."""
    return RankOnes(parameters[f"U/{name}"], parameters[f"V/{name}"])


def gate_of(parameters: Parameters, name: str) -> Gate:
    """The networks of its components."""
    return Gate(*(parameters[f"{field}/{name}"] for field in Gate._fields))


def names_of(parameters: Parameters) -> list[str]:
    """The matrices that parameters are of, in alphabetical order."""
    return sorted(key.partition("/")[2] for key in parameters if key.startswith("b_out/"))


def start_components(
    function: MatrixFunction, examples: Tensor, count: Mapping[str, int], hidden: int, seed: int
) -> dict[str, Tensor]:
    """Parameters to begin with. count: components of each matrix, ignored for rows. examples: numbers of those by which
    the networks' inputs are scaled. hidden: units of each network."""
    generator = torch.Generator().manual_seed(seed)
    clean = clean_pass(function, examples)
    counted = function.counted(examples)
    found: dict[str, Tensor] = {}
    for name, matrix in sorted(function.matrices.items()):
        if matrix.acting != "rows":
            ones = start(matrix.weight, count[name], generator)
            found |= {f"U/{name}": ones.U, f"V/{name}": ones.V}
        h = inner(matrix, found, name, clean.inputs[name])
        h = h.flatten(0, -2) if counted is None else h[counted]
        gate = start_gate((h**2).mean(0).sqrt(), hidden, generator)
        found |= {f"{field}/{name}": value for field, value in gate._asdict().items()}
    return found


def inner(matrix: Matrix, parameters: Parameters, name: str, a: Tensor) -> Tensor:
    """Inner activations (..., C) of the components of a matrix for its input."""
    if matrix.acting == "rows":
        return a
    V = parameters[f"V/{name}"]
    return F.linear(a, V) if matrix.acting == "dense" else V.T[a]


def masked(matrix: Matrix, parameters: Parameters, name: str, mask: Tensor) -> Layer:
    """The layer a -> U diag(mask) V a, mask (..., C) as the input, or (C,)."""

    def layer(a: Tensor) -> Tensor:
        h = inner(matrix, parameters, name, a) * mask
        return h if matrix.acting == "rows" else F.linear(h, parameters[f"U/{name}"])

    return layer


def scaled(matrix: Matrix, parameters: Parameters, name: str, taken: Tensor, factor: Tensor) -> Layer:
    """The layer a -> W a + (sum over the components `taken` of (factor - 1) times the component) a; factor (..., k)."""

    def layer(a: Tensor) -> Tensor:
        if matrix.acting == "rows":
            return a.index_add(-1, taken, a[..., taken] * (factor - 1))
        h = inner(matrix, parameters, name, a)[..., taken] * (factor - 1)
        return product(matrix, a) + F.linear(h, parameters[f"U/{name}"][:, taken])

    return layer


def importances(function: MatrixFunction, parameters: Parameters, clean: Clean) -> dict[str, Tensor]:
    """Raw importances (..., C) of the components of each matrix, at the inputs of a clean pass."""
    return {
        name: raw_importance(gate_of(parameters, name), inner(matrix, parameters, name, clean.inputs[name]))
        for name, matrix in function.matrices.items()
    }


def draw_mask(importance: Tensor, generator: torch.Generator) -> Tensor:
    """m = g + (1 - g) r for importances g, r from U(0, 1), drawn on the CPU."""
    r = torch.rand(importance.shape, generator=generator, dtype=importance.dtype)
    return importance + (1 - importance) * r.to(importance.device)


def parts_of_loss(
    function: MatrixFunction,
    parameters: Parameters,
    examples: Tensor,
    generator: torch.Generator,
    losses: Losses,
    divergence: Divergence,
) -> Parts:
    """The parts of the loss at these examples, differentiable in the parameters. divergence: D(outputs, target)."""
    clean = clean_pass(function, examples)
    raw = importances(function, parameters, clean)
    counted = function.counted(examples)
    matrices = function.matrices
    pairs = {n: (m.weight, ones_of(parameters, n)) for n, m in matrices.items() if m.acting != "rows"}
    zero = next(iter(raw.values())).new_zeros(())
    together: list[Tensor] = []
    apart: list[Tensor] = []
    for _ in range(losses.samples):
        layers = {
            name: masked(matrix, parameters, name, draw_mask(lower_leaky(raw[name]), generator))
            for name, matrix in sorted(matrices.items())
        }
        if losses.stochastic:
            together.append(divergence(function(examples, layers), clean.outputs))
        if losses.layerwise:
            apart += [divergence(function(examples, {name: layer}), clean.outputs) for name, layer in layers.items()]
    return Parts(
        faithfulness(pairs) if pairs else zero,
        torch.stack([minimality(raw[name], losses.power, counted) for name in sorted(raw)]).sum(),
        torch.stack(together).mean() if together else None,
        torch.stack(apart).mean() if apart else None,
    )


def total(parts: Parts, losses: Losses) -> Tensor:
    """Their sum with the factors."""
    value = losses.faithfulness * parts.faithfulness + losses.minimality * parts.minimality
    if parts.stochastic is not None:
        value = value + losses.stochastic * parts.stochastic
    return value if parts.layerwise is None else value + losses.layerwise * parts.layerwise
