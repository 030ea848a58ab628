"""Several read-outs of one scan: each equals a scan of its own, values, states and gradients, and costs no states."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.models.kernels import backends, selective_scan
from torch import Tensor

# Only these know several read-outs.
FAST = [name for name in ("numba", "torch") if name in backends("scan", "cpu")]
ALL = ["reference", *FAST]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
# (time, read-outs, states, channels); steps from tiny to huge at the end.
SHAPES = [(1, 3, 8, 5), (2, 1, 1, 1), (3, 2, 33, 17), (63, 4, 8, 5), (64, 3, 16, 48), (65, 2, 33, 5), (257, 3, 16, 48)]


@cache
def problem(shape: tuple[int, int, int, int], delta: tuple[float, float] = (1e-3, 1e-1)) -> dict[str, Tensor]:
    """Random arguments in float64, exact in float32."""
    time, readouts, states, channels = shape
    g = torch.Generator().manual_seed(time)
    low, high = torch.tensor(delta, dtype=torch.float64).log()
    tensors = {
        "x": torch.randn(2, time, channels, generator=g),
        "delta": torch.exp(low + (high - low) * torch.rand(2, time, channels, generator=g)),
        "A": -torch.arange(1, states + 1).repeat(channels, 1) * (1 + torch.rand(channels, states, generator=g)),
        "B": torch.randn(2, time, states, generator=g),
        "C": torch.randn(2, time, readouts, states, generator=g),
        "D": torch.randn(channels, generator=g),
        "initial_state": torch.randn(2, channels, states, generator=g),
    }
    return {name: tensor.float().double() for name, tensor in tensors.items()}


@cache
def resets(time: int) -> Tensor:
    reset = torch.rand(2, time, generator=torch.Generator().manual_seed(3)) < 0.1
    reset[0, 0] = True
    return reset


def with_gradients(tensors: dict[str, Tensor], dtype: torch.dtype, backend: str) -> dict[str, Tensor]:
    tensors = {name: tensor.to(dtype, copy=True).requires_grad_() for name, tensor in tensors.items()}
    time = tensors["x"].shape[1]
    outputs = selective_scan(
        **tensors, reset=resets(time), return_state=True, states_at=[time - 1, time // 2], backend=backend
    )
    g = torch.Generator().manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=g).to(dtype)).sum() for out in outputs)
    gradients = torch.autograd.grad(loss, list(tensors.values()))
    found = dict(zip(("y", "state", "states"), outputs, strict=True)) | dict(zip(tensors, gradients, strict=True))
    return {name: tensor.detach() for name, tensor in found.items()}


@cache
def definition(shape: tuple[int, int, int, int], delta: tuple[float, float] = (1e-3, 1e-1)) -> dict[str, Tensor]:
    return with_gradients(problem(shape, delta), torch.float64, "reference")


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_states_and_gradients_equal_the_recurrence(shape, backend):
    for dtype in TOLERANCE:
        for name, value in with_gradients(problem(shape), dtype, backend).items():
            assert value.shape == definition(shape)[name].shape
            assert relative(value, definition(shape)[name]) <= TOLERANCE[dtype], (name, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("delta", [(1e-8, 1e-6), (5.0, 200.0), (1e-8, 200.0)], ids=["tiny", "huge", "mixed"])
def test_extreme_steps_stay_finite_and_exact(delta, backend, dtype):
    shape = (130, 3, 8, 5)
    for name, value in with_gradients(problem(shape, delta), dtype, backend).items():
        assert torch.isfinite(value).all(), name
        assert relative(value, definition(shape, delta)[name]) <= TOLERANCE[dtype], name


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("time", [1, 70])
@torch.no_grad()
def test_each_readout_is_a_scan_of_its_own(time, backend):
    tensors = problem((time, 3, 8, 5))
    y, state = selective_scan(**tensors, reset=resets(time), return_state=True, backend=backend)
    for r in range(3):
        own = tensors | {"C": tensors["C"][:, :, r], "D": tensors["D"] if r == 0 else None}
        alone, last = selective_scan(**own, reset=resets(time), return_state=True, backend=backend)
        torch.testing.assert_close(y[:, :, r], alone, rtol=1e-12, atol=1e-12)
        assert torch.equal(state, last)


@torch.no_grad()
def test_one_token_of_decoding_takes_the_compiled_step_only_with_one_readout(monkeypatch):
    pytest.importorskip("numba")
    from mplat.models.kernels.scan import scan_numba

    taken: list[int] = []
    step = scan_numba.scan_step_numba
    monkeypatch.setattr(scan_numba, "scan_step_numba", lambda *arguments: taken.append(1) or step(*arguments))
    tensors = problem((1, 3, 8, 5))
    y = selective_scan(**tensors, backend="numba")
    assert not taken
    plain = selective_scan(**tensors | {"C": tensors["C"][:, :, 0]}, backend="numba")
    assert taken
    torch.testing.assert_close(y[:, :, 0], plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_first_of_several_readouts_has_the_bits_of_the_plain_scan(dtype):
    pytest.importorskip("numba")
    tensors = {name: tensor.to(dtype) for name, tensor in problem((257, 3, 16, 48)).items()}
    y = selective_scan(**tensors, backend="numba")
    plain = selective_scan(**tensors | {"C": tensors["C"][:, :, 0]}, backend="numba")
    one = selective_scan(**tensors | {"C": tensors["C"][:, :, :1]}, backend="numba")
    assert torch.equal(y[:, :, 0], plain) and torch.equal(one[:, :, 0], plain)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("with_skip", [True, False], ids=["D", "no D"])
def test_gradients_equal_finite_differences(with_skip, backend):
    tensors = problem((5, 2, 3, 2), (0.1, 1.0))
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items() if with_skip or name != "D"}

    def run(*values: Tensor) -> Any:
        named = dict(zip(tensors, values, strict=True))
        return selective_scan(**named, reset=resets(5), return_state=True, states_at=[3, 1], backend=backend)

    assert torch.autograd.gradcheck(run, tuple(tensors.values()))


@pytest.mark.parametrize("backend", FAST)
def test_gradient_of_a_state_alone(backend):
    gradients = []
    for name in ("reference", backend):
        tensors = {key: tensor.clone().requires_grad_() for key, tensor in problem((70, 3, 8, 5)).items()}
        _, states = selective_scan(**tensors, states_at=[20], backend=name)
        gradients.append(torch.autograd.grad(states.sum(), list(tensors.values()), materialize_grads=True))
    for expected, found in zip(*gradients, strict=True):
        assert relative(found, expected) <= 1e-11


@pytest.mark.parametrize("backend", ALL)
def test_no_gradient_reaches_the_future(backend):
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in problem((70, 3, 8, 5)).items()}
    y = selective_scan(**tensors, backend=backend)
    for name in ("x", "delta", "B", "C"):
        (grad,) = torch.autograd.grad(y[:, 40].sum(), tensors[name], retain_graph=True)
        assert not grad[:, 41:].any() and grad[:, 40].any(), name


@pytest.mark.parametrize("backend", FAST)
def test_training_keeps_checkpoints_and_not_the_states(backend):
    """What autograd saves for three read-outs of 1000 steps is less than a quarter of the states h."""
    time, states, channels = 1000, 16, 48
    tensors = {name: tensor.float().requires_grad_() for name, tensor in problem((time, 3, states, channels)).items()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = selective_scan(**tensors, backend=backend)
    assert sum(saved.values()) < 2 * time * channels * states * 4 / 4
    assert y.shape == (2, time, 3, channels)


def test_a_wrong_number_of_axes_or_readouts_is_refused():
    tensors = problem((3, 2, 33, 17))
    with pytest.raises(UsageError, match=r"C has shape \(2, 3, 2, 32\), expected \(2, 3, 2, 33\)"):
        selective_scan(**tensors | {"C": tensors["C"][..., 1:]})
    with pytest.raises(UsageError, match="expected at least one read-out"):
        selective_scan(**tensors | {"C": tensors["C"][:, :, :0]})
