"""Decode steps: the compiled one-token loops equal the definition, and many of them equal one long scan."""

from __future__ import annotations

import pytest
import torch
from mplat.models.kernels import backends, causal_conv, selective_scan, ssd
from mplat.models.parts.norms import RMSNorm
from torch import Tensor

pytestmark = pytest.mark.skipif("numba" not in backends("scan", "cpu"), reason="numba is not installed")
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


def normal(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def scan_arguments(dtype: torch.dtype, states: int, time: int, channels: int = 37):
    x, delta = normal(3, time, channels, seed=1, dtype=dtype), normal(3, time, channels, seed=2, dtype=dtype).exp()
    A, D = -normal(channels, states, seed=3, dtype=dtype).exp(), normal(channels, seed=6, dtype=dtype)
    return x, delta, A, normal(3, time, states, seed=4, dtype=dtype), normal(3, time, states, seed=5, dtype=dtype), D


def ssd_arguments(dtype: torch.dtype, states: int, time: int, groups: int = 2):
    x, delta = normal(3, time, 4, 5, seed=1, dtype=dtype), normal(3, time, 4, seed=2, dtype=dtype).exp()
    A, D = -normal(4, seed=3, dtype=dtype).exp(), normal(4, seed=6, dtype=dtype)
    B, C = (normal(3, time, groups, states, seed=seed, dtype=dtype) for seed in (4, 5))
    return x, delta, A, B, C, D


CASES = {
    "scan": (selective_scan, scan_arguments, lambda states: (3, 37, states)),
    "ssd": (ssd, ssd_arguments, lambda states: (3, 4, 5, states)),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("states", [16, 48, 7])
@pytest.mark.parametrize("operation", CASES)
@torch.no_grad()
def test_one_step_is_the_definition(operation: str, states: int, dtype: torch.dtype) -> None:
    call, arguments, shape = CASES[operation]
    given = arguments(dtype, states, 1)
    state = normal(*shape(states), seed=9, dtype=dtype)
    kept = state.clone()
    for skip in (given[-1], None):
        found = call(*given[:-1], skip, initial_state=state, return_state=True, backend="numba")
        expected = call(*given[:-1], skip, initial_state=state, return_state=True, backend="reference")
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 10)
    assert torch.equal(state, kept)  # others may fork from it


@pytest.mark.parametrize("operation", CASES)
@torch.no_grad()
def test_many_steps_are_one_scan(operation: str) -> None:
    call, arguments, shape = CASES[operation]
    given = arguments(torch.float64, 16, 9)
    state, outputs = torch.zeros(shape(16), dtype=torch.float64), []
    for t in range(9):
        step = [g[:, t : t + 1] if g.ndim > 2 else g for g in given]
        y, state = call(*step, initial_state=state, return_state=True)
        outputs.append(y)
    whole, final = call(*given, return_state=True, backend="reference")
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operation", CASES)
def test_a_step_has_gradients_and_resets(operation: str) -> None:
    call, arguments, shape = CASES[operation]
    given = arguments(torch.float64, 16, 1)
    state = normal(*shape(16), seed=9, dtype=torch.float64).requires_grad_()
    grads = [
        torch.autograd.grad(call(*given, initial_state=state, backend=backend).sum(), state)[0]
        for backend in ("numba", "reference")
    ]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)
    reset = torch.tensor([[True], [False], [True]])
    with torch.no_grad():
        found = call(*given, initial_state=state, reset=reset, backend="numba")
        torch.testing.assert_close(
            found, call(*given, initial_state=state, reset=reset, backend="reference"), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("taps", [1, 2, 4, 5])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_one_step_of_the_convolution(taps: int, bias: bool) -> None:
    u, weight = normal(3, 1, 19, seed=1, dtype=torch.float64), normal(19, taps, seed=2, dtype=torch.float64)
    given = (u, weight, normal(19, seed=3, dtype=torch.float64) if bias else None)
    past = normal(3, 19, taps - 1, seed=4, dtype=torch.float64)
    found = causal_conv(*given, initial_state=past, backend="numba")
    expected = causal_conv(*given, initial_state=past, backend="reference")
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("width", "groups"), [(48, 1), (96, 3), (40, 1), (64, 8)])
def test_the_norm_of_one_token(width: int, groups: int, dtype: torch.dtype) -> None:
    norm = RMSNorm(width, 1e-5, groups).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x = normal(5, 1, width, seed=1, dtype=dtype)
    parts = x.unflatten(-1, (groups, -1))
    expected = (parts / (parts.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2) * norm.weight
    with torch.no_grad():
        torch.testing.assert_close(norm(x), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert norm(x).requires_grad
