"""The causal depthwise convolution: every backend agrees with the tap-by-tap definition, and that one with `conv1d`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mplat.models.kernels import backends, causal_conv
from torch import Tensor

FAST = [name for name in backends("conv", "cpu") if name != "reference"]
SHAPES = [(1, 4, 5), (2, 4, 1), (3, 1, 48), (5, 2, 5), (64, 4, 48), (65, 3, 5), (257, 7, 16)]


def problem(
    time: int, taps: int, channels: int, *, batch: int = 2, dtype=torch.float64
) -> tuple[dict[str, Tensor], Tensor]:
    g = torch.Generator().manual_seed(time)
    shapes = {
        "u": (batch, time, channels),
        "weight": (channels, taps),
        "bias": (channels,),
        "initial_state": (batch, channels, taps - 1),
    }
    reset = torch.rand(batch, time, generator=g) < 0.2
    reset[0, 0] = True
    return {
        name: torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for name, shape in shapes.items()
    }, reset


@pytest.mark.parametrize("backend", backends("conv", "cpu"))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_conv1d_over_the_left_padded_input(shape, backend):
    tensors, _ = problem(*shape)
    padded = torch.cat((tensors["initial_state"], tensors["u"].transpose(1, 2)), 2)
    expected = torch.nn.functional.conv1d(padded, tensors["weight"][:, None], tensors["bias"], groups=shape[2])
    torch.testing.assert_close(
        causal_conv(**tensors, backend=backend), expected.transpose(1, 2), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_state_and_gradients_equal_the_definition(shape, backend, packed, dtype):
    results = []
    for name, kind in (("reference", torch.float64), (backend, dtype)):
        tensors, reset = problem(*shape)
        tensors = {key: tensor.float().to(kind).requires_grad_() for key, tensor in tensors.items()}
        y, state = causal_conv(**tensors, reset=reset if packed else None, return_state=True, backend=name)
        loss = (y * torch.linspace(0.5, 1, y.numel(), dtype=torch.float64).to(kind).view(y.shape)).sum() + state.sum()
        results.append((y, state, *torch.autograd.grad(loss, list(tensors.values()), materialize_grads=True)))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(
            found.double(),
            expected,
            rtol=tolerance,
            atol=tolerance * float(expected.detach().abs().max() if expected.numel() else 0),
        )


@pytest.mark.parametrize("backend", backends("conv", "cpu"))
def test_gradients_equal_finite_differences(backend):
    tensors, reset = problem(5, 3, 2)
    tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}

    def run(*values: Tensor) -> Any:
        return causal_conv(**dict(zip(tensors, values, strict=True)), reset=reset, return_state=True, backend=backend)

    assert torch.autograd.gradcheck(run, tuple(tensors.values()))


@pytest.mark.parametrize("backend", FAST)
def test_gradients_without_bias_and_state(backend):
    tensors, _ = problem(5, 3, 2)
    inputs = (tensors["u"].requires_grad_(), tensors["weight"].requires_grad_())
    assert torch.autograd.gradcheck(lambda u, weight: causal_conv(u, weight, backend=backend), inputs)


@pytest.mark.parametrize("backend", backends("conv", "cpu"))
@pytest.mark.parametrize("cut", [1, 2, 3, 10, 19])
def test_two_halves_with_the_state_carried_equal_one_run(cut, backend):
    tensors, reset = problem(20, 4, 5)
    u, start = tensors.pop("u"), tensors.pop("initial_state")
    y, state = causal_conv(u, **tensors, initial_state=start, reset=reset, return_state=True, backend=backend)
    before, middle = causal_conv(
        u[:, :cut], **tensors, initial_state=start, reset=reset[:, :cut], return_state=True, backend=backend
    )
    after, end = causal_conv(
        u[:, cut:], **tensors, initial_state=middle, reset=reset[:, cut:], return_state=True, backend=backend
    )
    torch.testing.assert_close(torch.cat((before, after), 1), y, rtol=1e-12, atol=1e-12)
    assert torch.equal(end, state)


@pytest.mark.parametrize("backend", backends("conv", "cpu"))
def test_packed_documents_equal_separate_documents(backend):
    tensors, _ = problem(30, 4, 5, batch=1)
    tensors.pop("initial_state")
    u = tensors.pop("u")
    starts = [0, 10, 11, 13, 28]
    reset = torch.zeros(1, 30, dtype=torch.bool)
    reset[0, starts] = True
    packed, state = causal_conv(u, **tensors, reset=reset, return_state=True, backend=backend)
    for begin, end in zip(starts, [*starts[1:], 30], strict=True):
        alone, last = causal_conv(u[:, begin:end], **tensors, return_state=True, backend=backend)
        torch.testing.assert_close(packed[:, begin:end], alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(state, last) and torch.equal(state[..., 0], torch.zeros(1, 5, dtype=torch.float64))


@pytest.mark.parametrize("backend", backends("conv", "cpu"))
def test_no_gradient_reaches_the_future(backend):
    tensors, _ = problem(20, 4, 5)
    tensors["u"].requires_grad_()
    (grad,) = torch.autograd.grad(causal_conv(**tensors, backend=backend)[:, 10].sum(), tensors["u"])
    touched = (grad != 0).any(0).any(1).nonzero().flatten().tolist()
    assert touched == [7, 8, 9, 10]


@pytest.mark.parametrize("backend", backends("conv", "cpu"))
def test_an_overflowed_document_does_not_reach_the_next_one(backend):
    tensors, _ = problem(12, 4, 5, batch=1, dtype=torch.float32)
    tensors["u"][:, :6] = float("inf")
    reset = torch.zeros(1, 12, dtype=torch.bool)
    reset[0, 6] = True
    y, state = causal_conv(**tensors, reset=reset, return_state=True, backend=backend)
    assert torch.isfinite(y[:, 6:]).all() and torch.isfinite(state).all()
    tensors["u"].requires_grad_()
    (grad,) = torch.autograd.grad(causal_conv(**tensors, reset=reset, backend=backend)[:, 6:].sum(), tensors["u"])
    assert torch.isfinite(grad).all()


def test_low_precision_inputs_come_back_in_their_type():
    tensors, _ = problem(12, 4, 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = causal_conv(**tensors, return_state=True)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    expected = causal_conv(**{name: tensor.float() for name, tensor in tensors.items()})
    assert torch.equal(y, expected.to(torch.bfloat16))
