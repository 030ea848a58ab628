"""The Triton kernels agree with the token-by-token definitions in float64: values, states and every gradient.

On a GPU they run as they are; elsewhere in Triton's interpreter, which `test_triton` starts: TRITON_INTERPRET has to be
set before triton is imported, so not in the process of the other tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mplat.models.kernels import backends, causal_conv, resolve, selective_scan, ssd
from mplat.models.kernels.backend import interpreted
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() and not interpreted() else "cpu"
pytestmark = pytest.mark.skipif(
    "triton" not in backends("scan", DEVICE),
    reason="no triton, or neither a GPU nor TRITON_INTERPRET=1: test_triton runs this file in the interpreter",
)
# A GPU has its own exponential, and tensor cores that split a float32 in two.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5 if DEVICE == "cpu" else 5e-5}
KINDS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def normal(*shape: int) -> Tensor:
    """Random, in float64 but exact in float32, so that only the arithmetic differs."""
    g = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=g).double()


def steps(*shape: int, low: float = 1e-3, high: float = 1e-1) -> Tensor:
    g = torch.Generator().manual_seed(len(shape))
    return (low * (high / low) ** torch.rand(*shape, generator=g)).double()


def resets(batch: int, time: int) -> Tensor:
    reset = torch.rand(batch, time, generator=torch.Generator().manual_seed(time)) < 0.05
    reset[0, 0] = True
    return reset


def with_gradients(run: Callable[..., Any], tensors: dict[str, Tensor], dtype: torch.dtype, **options: Any):
    """Every output and every gradient, in float64 on the CPU."""
    device = "cpu" if options["backend"] == "reference" else DEVICE
    leaves = {name: tensor.to(device, dtype, copy=True).requires_grad_() for name, tensor in tensors.items()}
    options = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in options.items()}
    outputs = run(**leaves, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((out * normal(*out.shape).to(out)).sum() for out in outputs)
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    found = dict(enumerate(outputs)) | dict(zip(leaves, gradients, strict=True))
    return {name: tensor.detach().cpu().double() for name, tensor in found.items()}


def assert_parity(run: Callable[..., Any], tensors: dict[str, Tensor], dtype: torch.dtype, **options: Any) -> None:
    expected = with_gradients(run, tensors, torch.float64, backend="reference", **options)
    found = with_gradients(run, tensors, dtype, backend="triton", **options)
    for name, value in found.items():
        assert value.shape == expected[name].shape and torch.isfinite(value).all(), name
        if value.numel():
            error = float((value - expected[name]).abs().max() / expected[name].abs().max().clamp_min(1e-30))
            assert error <= TOLERANCE[dtype], f"{name}: {error}"


def scan_problem(time: int, size: int, channels: int, readouts: int = 0, **delta: float) -> dict[str, Tensor]:
    middle = (readouts,) if readouts else ()
    return {
        "x": normal(2, time, channels),
        "delta": steps(2, time, channels, **delta),
        "A": -torch.arange(1.0, size + 1).double().repeat(channels, 1),
        "B": normal(2, time, size),
        "C": normal(2, time, *middle, size),
        "D": normal(channels),
        "initial_state": normal(2, channels, size),
    }


# Around the chunk of 16 steps and the blocks of channels and states, and odd everywhere.
@KINDS
@pytest.mark.parametrize("shape", [(1, 4, 3), (15, 1, 1), (16, 3, 5), (33, 5, 33), (65, 16, 2)], ids=str)
def test_the_scan_with_everything(shape, dtype):
    time = shape[0]
    options = {"reset": resets(2, time), "return_state": True, "states_at": [time - 1, 0, time // 2, 0]}
    assert_parity(selective_scan, scan_problem(*shape), dtype, **options)


@KINDS
def test_the_scan_without_anything(dtype):
    tensors = {name: t for name, t in scan_problem(40, 3, 5).items() if name not in ("D", "initial_state")}
    assert_parity(selective_scan, tensors, dtype)


@KINDS
def test_the_scan_with_several_readouts(dtype):
    assert_parity(selective_scan, scan_problem(20, 3, 5, readouts=3), dtype, reset=resets(2, 20), states_at=[7])


@pytest.mark.parametrize("delta", [(1e-8, 1e-6), (5.0, 200.0), (1e-8, 200.0)], ids=["tiny", "huge", "mixed"])
def test_extreme_steps_stay_exact(delta):
    low, high = delta
    assert_parity(selective_scan, scan_problem(40, 8, 3, low=low, high=high), torch.float32, return_state=True)
    tensors = ssd_problem(70, 2, 3, 1, 4) | {"delta": steps(2, 70, 2, low=low, high=high)}
    assert_parity(ssd, tensors, torch.float32, return_state=True)


def ssd_problem(time: int, heads: int, width: int, groups: int, size: int) -> dict[str, Tensor]:
    return {
        "x": normal(2, time, heads, width),
        "delta": steps(2, time, heads),
        "A": -torch.arange(1.0, heads + 1).double(),
        "B": normal(2, time, groups, size),
        "C": normal(2, time, groups, size),
        "D": normal(heads),
        "initial_state": normal(2, heads, width, size),
    }


# The one of 130 is a head that is cut in three; 70 states are more than one slice.
@KINDS
@pytest.mark.parametrize(
    "shape", [(1, 2, 3, 1, 4), (2, 4, 5, 2, 1), (33, 6, 3, 3, 8), (65, 2, 1, 1, 70), (20, 2, 130, 1, 3)], ids=str
)
def test_the_ssd_with_everything(shape, dtype):
    time = shape[0]
    options = {"reset": resets(2, time), "return_state": True, "states_at": [time - 1, 0, time // 2, 0]}
    assert_parity(ssd, ssd_problem(*shape), dtype, **options)


@KINDS
@pytest.mark.parametrize("chunk", [1, 20, 1000])
def test_the_ssd_in_any_chunk_without_anything(chunk, dtype):
    tensors = {name: t for name, t in ssd_problem(70, 4, 3, 2, 5).items() if name not in ("D", "initial_state")}
    assert_parity(ssd, tensors, dtype, chunk=chunk)


def conv_problem(time: int, taps: int, channels: int) -> dict[str, Tensor]:
    window = {"initial_state": normal(2, channels, taps - 1)}
    return {"u": normal(2, time, channels), "weight": normal(channels, taps), "bias": normal(channels)} | window


@KINDS
@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 5, 1), (3, 1, 65), (33, 2, 5), (70, 7, 3)], ids=str)
def test_the_convolution_with_everything(shape, dtype):
    assert_parity(causal_conv, conv_problem(*shape), dtype, reset=resets(2, shape[0]), return_state=True)


@KINDS
def test_the_convolution_without_anything(dtype):
    tensors = {name: t for name, t in conv_problem(40, 4, 5).items() if name in ("u", "weight")}
    assert_parity(causal_conv, tensors, dtype)


def test_an_overflowed_document_does_not_reach_the_next_one():
    reset = torch.zeros(2, 40, dtype=torch.bool)
    reset[:, 20] = True
    for run, tensors in ((selective_scan, scan_problem(40, 3, 5)), (ssd, ssd_problem(40, 2, 3, 1, 4))):
        tensors = {name: tensor.to(DEVICE).float() for name, tensor in tensors.items()}
        tensors["initial_state"].fill_(float("inf"))
        y, state = run(**tensors, reset=reset.to(DEVICE), return_state=True, backend="triton")
        assert not torch.isfinite(y[:, :20]).any()
        assert torch.isfinite(y[:, 20:]).all() and torch.isfinite(state).all()


def test_reading_states_out_or_training_changes_no_bit_of_y():
    for run, tensors in ((selective_scan, scan_problem(40, 3, 5)), (ssd, ssd_problem(40, 2, 3, 1, 4))):
        tensors = {name: tensor.to(DEVICE).float() for name, tensor in tensors.items()}
        y = run(**tensors, backend="triton")
        with_states, state, states = run(**tensors, return_state=True, states_at=range(40), backend="triton")
        trained = run(**{name: t.requires_grad_() for name, t in tensors.items()}, backend="triton")
        assert torch.equal(y, with_states) and torch.equal(y, trained) and torch.equal(state, states[:, -1])


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_the_same_gradients_in_every_run_and_auto_on_a_gpu():
    from mplat.models.kernels import backend as registry

    for run, tensors in ((selective_scan, scan_problem(500, 16, 65)), (ssd, ssd_problem(500, 4, 64, 1, 64))):
        first, second = (with_gradients(run, tensors, torch.float32, backend="triton") for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)
    installed = registry._installed("mamba_ssm")
    assert resolve("scan", torch.zeros(1, device="cuda")) == ("cuda" if installed else "triton")
