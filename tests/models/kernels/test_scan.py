"""The selective scan: every backend agrees with the token-by-token recurrence in float64, in values, states and
gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from mplat.models.kernels import backends, selective_scan
from torch import Tensor

FAST = [name for name in backends("scan", "cpu") if name != "reference"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
LENGTHS = (1, 2, 3, 63, 64, 65, 257)
# Every length meets every (states, channels) pair that stresses it, without the full product.
SHAPES = [
    (time, size, width)
    for time, (size, width) in zip(itertools.cycle(LENGTHS), itertools.product((1, 8, 16, 33), (1, 5, 48)))
]
SHAPES = SHAPES[:12] + [(257, 16, 48), (65, 33, 5), (64, 1, 1)]


class Case:
    """One random problem in float64; `arguments` gives it in another dtype."""

    def __init__(
        self,
        time: int,
        size: int,
        channels: int,
        *,
        batch: int = 2,
        seed: int = 0,
        delta: tuple[float, float] = (1e-3, 1e-1),
    ):
        g = torch.Generator().manual_seed(seed)
        self.batch, self.time, self.size, self.channels = batch, time, size, channels

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        low, high = torch.tensor(delta, dtype=torch.float64).log()
        spread = torch.rand(batch, time, channels, generator=g, dtype=torch.float64)
        self.tensors = {
            "x": normal(batch, time, channels),
            "delta": torch.exp(low + (high - low) * spread),
            "A": -torch.arange(1, size + 1, dtype=torch.float64).repeat(channels, 1)
            * (1 + 0.1 * normal(channels, size).abs()),
            "B": normal(batch, time, size),
            "C": normal(batch, time, size),
            "D": normal(channels),
            "initial_state": normal(batch, channels, size),
        }
        # float32 inputs are the float64 problem's exact inputs, so that only the arithmetic differs.
        self.tensors = {name: tensor.float().double() for name, tensor in self.tensors.items()}
        self.reset = torch.rand(batch, time, generator=g) < 0.1
        self.reset[0, 0] = True
        self.generator = g

    def arguments(self, dtype: torch.dtype, *, grad: bool = False) -> dict[str, Tensor]:
        return {name: tensor.to(dtype).requires_grad_(grad) for name, tensor in self.tensors.items()}


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected magnitude."""
    return float(
        (found.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max().clamp_min(1e-30)
    )


def scan_with_gradients(case: Case, dtype: torch.dtype, backend: str, reset: Tensor | None) -> dict[str, Tensor]:
    arguments = case.arguments(dtype, grad=True)
    positions = [case.time - 1, 0, case.time // 2]
    outputs = selective_scan(**arguments, reset=reset, return_state=True, states_at=positions, backend=backend)
    g = torch.Generator().manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=g, dtype=torch.float64).to(dtype)).sum() for out in outputs)
    gradients = torch.autograd.grad(loss, list(arguments.values()))
    return dict(zip(("y", "state", "states"), outputs, strict=True)) | {
        f"d{name}": grad for name, grad in zip(arguments, gradients, strict=True)
    }


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_states_and_gradients_equal_the_recurrence(shape, backend):
    case = Case(*shape)
    expected = scan_with_gradients(case, torch.float64, "reference", case.reset)
    for dtype in TOLERANCE:
        for name, value in scan_with_gradients(case, dtype, backend, case.reset).items():
            assert relative(value, expected[name]) <= TOLERANCE[dtype], (name, dtype)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("delta", [(1e-8, 1e-6), (5.0, 200.0), (1e-8, 200.0)], ids=["tiny", "huge", "mixed"])
def test_extreme_steps_stay_finite_and_exact(delta, backend):
    case = Case(130, 8, 5, delta=delta)
    expected = scan_with_gradients(case, torch.float64, "reference", None)
    for dtype in TOLERANCE:
        for name, value in scan_with_gradients(case, dtype, backend, None).items():
            assert torch.isfinite(value).all(), (name, dtype)
            assert relative(value, expected[name]) <= TOLERANCE[dtype], (name, dtype)


@pytest.mark.parametrize("backend", backends("scan", "cpu"))
def test_gradients_equal_finite_differences(backend):
    case = Case(6, 3, 2, delta=(0.1, 1.0))
    arguments = case.arguments(torch.float64, grad=True)

    def run(*values: Tensor) -> Any:
        named = dict(zip(arguments, values, strict=True))
        return selective_scan(**named, reset=case.reset, return_state=True, states_at=[4, 1, 1], backend=backend)

    assert torch.autograd.gradcheck(run, tuple(arguments.values()))


@pytest.mark.parametrize("backend", FAST)
def test_gradients_without_d_and_initial_state(backend):
    case = Case(6, 3, 2, delta=(0.1, 1.0))
    arguments = {name: case.arguments(torch.float64, grad=True)[name] for name in ("x", "delta", "A", "B", "C")}
    assert torch.autograd.gradcheck(lambda *values: selective_scan(*values, backend=backend), tuple(arguments.values()))


@pytest.mark.parametrize("backend", FAST)
def test_gradient_of_a_state_alone(backend):
    case = Case(40, 3, 2, delta=(0.1, 1.0))
    gradients = []
    for name in ("reference", backend):
        arguments = case.arguments(torch.float64, grad=True)
        _, states = selective_scan(**arguments, states_at=[20], backend=name)
        wanted = [arguments[key] for key in ("x", "delta", "A", "B", "initial_state")]
        gradients.append(torch.autograd.grad(states.sum(), wanted))
    for expected, found in zip(*gradients, strict=True):
        assert relative(found, expected) <= 1e-11


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", backends("scan", "cpu"))
def test_reading_states_out_does_not_change_one_bit_of_y(backend, dtype):
    case = Case(100, 16, 48)
    arguments = case.arguments(dtype)
    y = selective_scan(**arguments, reset=case.reset, backend=backend)
    with_all, state, states = selective_scan(
        **arguments, reset=case.reset, return_state=True, states_at=torch.arange(100), backend=backend
    )
    trained = selective_scan(**case.arguments(dtype, grad=True), reset=case.reset, backend=backend)
    assert torch.equal(y, with_all) and torch.equal(y, trained)
    assert torch.equal(state, states[:, -1])


@pytest.mark.parametrize("backend", FAST)
def test_states_follow_the_order_asked_for(backend):
    case = Case(70, 4, 5)
    arguments = case.arguments(torch.float64)
    _, every = selective_scan(**arguments, states_at=range(70), backend="reference")
    _, states = selective_scan(**arguments, states_at=[69, 0, 33, 33], backend=backend)
    torch.testing.assert_close(states, every[:, [69, 0, 33, 33]], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", backends("scan", "cpu"))
@pytest.mark.parametrize("cut", [1, 37, 64])
def test_two_halves_with_the_state_carried_equal_one_run(cut, backend):
    case = Case(90, 8, 5)
    arguments = case.arguments(torch.float64)
    y, state = selective_scan(**arguments, reset=case.reset, return_state=True, backend=backend)
    part = {name: arguments[name] for name in ("x", "delta", "B", "C")}
    rest = {name: arguments[name] for name in ("A", "D")}
    before, middle = selective_scan(
        **{name: tensor[:, :cut] for name, tensor in part.items()}, **rest, initial_state=arguments["initial_state"],
        reset=case.reset[:, :cut], return_state=True, backend=backend,
    )  # fmt: skip
    after, end = selective_scan(
        **{name: tensor[:, cut:] for name, tensor in part.items()}, **rest, initial_state=middle,
        reset=case.reset[:, cut:], return_state=True, backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(torch.cat((before, after), 1), y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(end, state, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", backends("scan", "cpu"))
def test_packed_documents_equal_separate_documents(backend):
    case = Case(75, 8, 5, batch=1)
    arguments = case.arguments(torch.float64)
    starts = [0, 20, 21, 64]
    reset = torch.zeros(1, 75, dtype=torch.bool)
    reset[0, starts] = True
    packed = selective_scan(**arguments, reset=reset, backend=backend)
    for begin, end in zip(starts, [*starts[1:], 75], strict=True):
        document = {name: arguments[name][:, begin:end] for name in ("x", "delta", "B", "C")}
        alone = selective_scan(**document, A=arguments["A"], D=arguments["D"], backend=backend)
        torch.testing.assert_close(packed[:, begin:end], alone, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", backends("scan", "cpu"))
def test_an_overflowed_document_does_not_reach_the_next_one(backend):
    case = Case(8, 4, 3, batch=1)
    arguments = case.arguments(torch.float32)
    arguments["initial_state"] = torch.full_like(arguments["initial_state"], float("inf"))
    reset = torch.zeros(1, 8, dtype=torch.bool)
    reset[0, 5] = True
    y, state = selective_scan(**arguments, reset=reset, return_state=True, backend=backend)
    assert not torch.isfinite(y[:, :5]).any()
    assert torch.isfinite(y[:, 5:]).all() and torch.isfinite(state).all()


@pytest.mark.parametrize("backend", backends("scan", "cpu"))
def test_no_gradient_reaches_the_future(backend):
    case = Case(70, 4, 5)
    arguments = case.arguments(torch.float32, grad=True)
    y = selective_scan(**arguments, backend=backend)
    for name in ("x", "delta", "B", "C"):
        (grad,) = torch.autograd.grad(y[:, 40].sum(), arguments[name], retain_graph=True)
        assert torch.equal(grad[:, 41:], torch.zeros_like(grad[:, 41:])), name
        assert (grad[:, 40] != 0).any(), name


@pytest.mark.parametrize("backend", backends("scan", "cpu"))
def test_low_precision_inputs_are_scanned_in_float32(backend):
    case = Case(50, 4, 5)
    half = {name: tensor.to(torch.bfloat16) for name, tensor in case.tensors.items()} | {"A": case.tensors["A"].float()}
    single = {name: tensor.float() for name, tensor in half.items()}
    expected, expected_state = selective_scan(**single, return_state=True, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = selective_scan(**half, return_state=True, backend=backend)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert torch.equal(y, expected.to(torch.bfloat16)) and torch.equal(state, expected_state)


@pytest.mark.parametrize("backend", FAST)
def test_strided_inputs_and_thread_counts_give_the_same_bits(backend):
    case = Case(100, 8, 48, batch=3)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            arguments = case.arguments(torch.float32)
            if count == 3:
                for name in ("x", "delta", "B", "C"):
                    arguments[name] = arguments[name].transpose(1, 2).contiguous().transpose(1, 2)
            arguments = {name: tensor.requires_grad_() for name, tensor in arguments.items()}
            y = selective_scan(**arguments, reset=case.reset, backend=backend)
            results.append((y, *torch.autograd.grad(y.sin().sum(), list(arguments.values()))))
    finally:
        torch.set_num_threads(threads)
    if backend == "numba":
        assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))
    else:
        assert all(relative(three, one.double()) <= 1e-5 for one, three in zip(*results, strict=True))
