"""Every backend that can run here gives what the definition gives, in values, states and gradients."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from mplat.models.kernels import backend as kernels
from mplat.models.kernels import backends, operations, resolve
from torch import Tensor

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}  # of the largest magnitude
CASES = [(operation, name) for operation in operations() for name in backends(operation, "cpu")]


def outputs(operation: str, name: str, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    found = kernels.select(operation, arguments[0], name)(*arguments)
    return tuple(found) if isinstance(found, tuple) else (found,)


def results(operation: str, name: str, arguments: tuple[Any, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs, and gradients of a fixed combination of them, by name; float32 arguments are exact in float64 too."""
    rounded = [a.float().to(dtype).requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
               for a in arguments]  # fmt: skip
    made = outputs(operation, name, tuple(rounded))
    g = torch.Generator().manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=g, dtype=torch.float64).to(dtype)).sum() for out in made)
    inputs = [a for a in rounded if isinstance(a, Tensor) and a.requires_grad]
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, inputs)
    return {f"output {i}": out.detach() for i, out in enumerate(made)} | {
        f"gradient {i}": d for i, d in enumerate(gradients)
    }


@cache
def defined(operation: str, left_out: int | None) -> dict[str, Tensor] | None:
    """By the definition in float64, with the example's arguments, for every backend and dtype; None where the
    definition does not take None in this place."""
    arguments = tuple(None if i == left_out else a for i, a in enumerate(kernels.example_arguments(operation)))
    try:
        return results(operation, "reference", arguments, torch.float64)
    except (AttributeError, TypeError):
        if left_out is None:
            raise
        return None


def test_every_operation_has_a_definition() -> None:
    for operation in operations():
        assert "reference" in backends(operation) and kernels.example_arguments(operation)
        assert resolve(operation, torch.zeros(1)) in backends(operation, "cpu")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("operation", "name"), CASES)
def test_a_backend_gives_what_the_definition_gives(operation: str, name: str, dtype: torch.dtype) -> None:
    whole = kernels.example_arguments(operation)
    for left_out in (None, *(i for i, a in enumerate(whole) if isinstance(a, Tensor))):
        arguments = tuple(None if i == left_out else a for i, a in enumerate(whole))
        expected = defined(operation, left_out)
        if expected is None or kernels._limit(operation, name)(*arguments) is not None:
            continue  # the definition takes no None here, or the backend says itself that it cannot
        found = results(operation, name, arguments, dtype)
        assert found.keys() == expected.keys()
        for what, value in found.items():
            error = float((value.double() - expected[what]).abs().max() / expected[what].abs().max().clamp_min(1e-30))
            assert value.dtype == dtype and error <= TOLERANCE[dtype], (what, left_out, error)


@pytest.mark.parametrize(("operation", "name"), CASES)
def test_nothing_is_written_into_the_arguments(operation: str, name: str) -> None:
    arguments = kernels.example_arguments(operation)
    if kernels._limit(operation, name)(*arguments) is None:
        first = outputs(operation, name, arguments)
        for a, b in zip(arguments, kernels.example_arguments(operation), strict=True):
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in zip(first, outputs(operation, name, arguments), strict=True):
            assert torch.equal(a, b), "the same bits again"
