"""Every operation, every backend: a thousand steps, a document start at every position, and finite differences across
the places where the fast backends cut time into chunks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from mplat.models.kernels import backends, causal_conv, fft_conv, operations, selective_scan, ssd
from torch import Tensor

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


class Operation(NamedTuple):
    call: Callable[..., Any]
    shapes: Callable[[int, int], dict[str, tuple[int, ...]]]
    """(batch, time) -> the shape of every argument, none of them a multiple of a vector."""
    options: dict[str, Any]


OPERATIONS = {
    "scan": Operation(
        selective_scan,
        lambda b, t: {
            "x": (b, t, 5), "delta": (b, t, 5), "A": (5, 33), "B": (b, t, 33), "C": (b, t, 33), "D": (5,),
            "initial_state": (b, 5, 33),
        },
        {"return_state": True},
    ),
    "ssd": Operation(
        ssd,
        lambda b, t: {
            "x": (b, t, 4, 3), "delta": (b, t, 4), "A": (4,), "B": (b, t, 2, 9), "C": (b, t, 2, 9), "D": (4,),
            "initial_state": (b, 4, 3, 9),
        },
        {"return_state": True},
    ),
    "conv": Operation(
        causal_conv,
        lambda b, t: {"u": (b, t, 17), "weight": (17, 4), "bias": (17,), "initial_state": (b, 17, 3)},
        {"return_state": True},
    ),
    "fft_conv": Operation(
        fft_conv, lambda b, t: {"u": (b, t, 3), "kernel": (3, t), "D": (3,), "history": (b, 3, 5)}, {}
    ),
}  # fmt: skip
FAST = [(operation, name) for operation in OPERATIONS for name in backends(operation, "cpu") if name != "reference"]


def test_no_operation_is_left_out():
    assert sorted(OPERATIONS) == operations()


@cache
def problem(operation: str, batch: int, time: int) -> dict[str, Tensor]:
    """Random float64 arguments, exact in float32; steps between 1e-3 and 1."""
    g = torch.Generator().manual_seed(time)
    found = {}
    for name, shape in OPERATIONS[operation].shapes(batch, time).items():
        value = torch.randn(shape, generator=g)
        if name == "delta":
            value = 10 ** (-3 * torch.rand(shape, generator=g))
        found[name] = (-value.exp() if name == "A" else value).double()
    return found


def with_gradients(
    operation: str, batch: int, time: int, backend: str, dtype: torch.dtype, reset: Tensor | None
) -> list[Tensor]:
    """The outputs, then the gradient of every argument."""
    tensors = {
        name: value.to(dtype, copy=True).requires_grad_() for name, value in problem(operation, batch, time).items()
    }
    call, _, options = OPERATIONS[operation]
    outputs = call(**tensors, reset=reset, backend=backend, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    g = torch.Generator().manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=g).to(dtype)).sum() for out in outputs)
    return [out.detach() for out in (*outputs, *torch.autograd.grad(loss, list(tensors.values())))]


def agree(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for i, (value, exact) in enumerate(zip(found, expected, strict=True)):
        assert float((value.double() - exact).abs().max() / exact.abs().max()) <= tolerance, i


@cache
def definition(operation: str, batch: int, time: int, every_reset: bool) -> list[Tensor]:
    reset = torch.eye(time, dtype=torch.bool) if every_reset else None
    return with_gradients(operation, batch, time, "reference", torch.float64, reset)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("operation", "backend"), FAST)
def test_a_thousand_steps_equal_the_definition(operation, backend, dtype):
    found = with_gradients(operation, 1, 1000, backend, dtype, None)
    agree(found, definition(operation, 1, 1000, False), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("operation", "backend"), FAST)
def test_a_document_start_at_every_position_equals_the_definition(operation, backend, dtype):
    """Row b of the batch starts a document at token b, so that no position is left out."""
    found = with_gradients(operation, 67, 67, backend, dtype, torch.eye(67, dtype=torch.bool))
    agree(found, definition(operation, 67, 67, True), TOLERANCE[dtype])


@pytest.mark.parametrize(("operation", "backend"), FAST)
def test_a_document_start_at_all_positions_leaves_each_token_alone(operation, backend):
    reset = torch.ones(2, 67, dtype=torch.bool)
    expected = with_gradients(operation, 2, 67, "reference", torch.float64, reset)
    found = with_gradients(operation, 2, 67, backend, torch.float64, reset)
    for value, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(value, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("operation", "backend"), FAST)
@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
def test_gradients_across_chunks_equal_finite_differences(operation, backend, packed):
    """67 steps, one direction drawn per argument (`fast_mode`): a full Jacobian would take minutes."""
    tensors = {name: value.clone().requires_grad_() for name, value in problem(operation, 2, 67).items()}
    call, _, options = OPERATIONS[operation]
    reset = torch.zeros(2, 67, dtype=torch.bool)
    if packed:
        reset[0, [31, 32, 33, 64]] = True
        reset[1, [0, 63, 66]] = True
    torch.manual_seed(0)

    def run(*values: Tensor) -> Any:
        return call(**dict(zip(tensors, values, strict=True)), reset=reset, backend=backend, **options)

    assert torch.autograd.gradcheck(run, tuple(tensors.values()), fast_mode=True, atol=1e-5, rtol=1e-4)
