"""A function with named matrices, as parameter decompositions see it: a toy model, or a language model on its prompts.

The function says where each matrix acts; what stands there is given from outside, so that a product W a can become
U diag(m) V a with masks m of every example. A matrix acts in one of three ways:

    dense    a (..., in)      -> W a (..., out)         a projection
    lookup   a (...) integer  -> W[:, a] (..., out)     an embedding: its input is one-hot, W is (width, vocabulary)
    rows     a (..., out)     -> a                      a depthwise convolution: row e of W (out, taps) sees channel e
                                                        alone, so a holds the products of rows and windows themselves
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Acting = Literal["dense", "lookup", "rows"]
#: the product in the place of one matrix: its input to its output, without bias
Layer = Callable[[Tensor], Tensor]


class Matrix(NamedTuple):
    """weight (out, in), detached; acting: see the module."""

    weight: Tensor
    acting: Acting = "dense"


class MatrixFunction(Protocol):
    """f(examples; matrices). `matrices`: those to decompose, by name.

    Called with numbers of examples (batch,) and layers for some of its matrices it gives outputs (n, o): of each
    example, or of each token of them. Other matrices act as they are. What layers are given begins with the same axes,
    and `counted` says which of these entries are examples and no padding; None: all.
    """

    @property
    def matrices(self) -> Mapping[str, Matrix]: ...

    def __call__(self, examples: Tensor, layers: Mapping[str, Layer]) -> Tensor: ...

    def counted(self, examples: Tensor) -> Tensor | None: ...


class Clean(NamedTuple):
    """outputs (n, o) with the matrices as they are, and the input of each matrix, by name."""

    outputs: Tensor
    inputs: dict[str, Tensor]


def product(matrix: Matrix, a: Tensor) -> Tensor:
    """What `matrix` makes of its input, see the module."""
    if matrix.acting == "dense":
        return F.linear(a, matrix.weight)
    return matrix.weight.T[a] if matrix.acting == "lookup" else a


@torch.no_grad()
def clean_pass(function: MatrixFunction, examples: Tensor) -> Clean:
    """The function as it is, and what its matrices see."""
    inputs: dict[str, Tensor] = {}

    def watched(name: str, matrix: Matrix) -> Layer:
        def layer(a: Tensor) -> Tensor:
            inputs[name] = a
            return product(matrix, a)

        return layer

    outputs = function(examples, {name: watched(name, matrix) for name, matrix in function.matrices.items()})
    return Clean(outputs, inputs)


def parameters_of(function: MatrixFunction) -> int:
    """Numbers in all its matrices: N of the faithfulness."""
    return sum(matrix.weight.numel() for matrix in function.matrices.values())


def mean_squares(outputs: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference over examples and outputs (n, o)."""
    return ((outputs - target) ** 2).mean()


def divergence_of_logits(outputs: Tensor, target: Tensor) -> Tensor:
    """KL(target || outputs) in nats between the distributions of logits (n, o), mean over the n."""
    wanted = torch.log_softmax(target, -1)
    return (wanted.exp() * (wanted - torch.log_softmax(outputs, -1))).sum(-1).mean()


#: D(outputs, target) of outputs (n, o)
Divergence = Callable[[Tensor, Tensor], Tensor]
