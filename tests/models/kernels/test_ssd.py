"""The SSD of Mamba-2: every chunk size of every backend agrees with the token-by-token recurrence in float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.models.kernels import backends, selective_scan, ssd
from torch import Tensor

FAST = [name for name in backends("ssd", "cpu") if name != "reference"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


def problem(
    time: int, heads: int, width: int, groups: int, size: int, *, batch: int = 2, delta=(1e-3, 1e-1)
) -> dict[str, Tensor]:
    """Random float64 arguments whose values are exact in float32."""
    g = torch.Generator().manual_seed(time)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    low, high = torch.tensor(delta, dtype=torch.float64).log()
    tensors = {
        "x": normal(batch, time, heads, width),
        "delta": torch.exp(low + (high - low) * torch.rand(batch, time, heads, generator=g, dtype=torch.float64)),
        "A": -1 - 15 * torch.rand(heads, generator=g, dtype=torch.float64),
        "B": normal(batch, time, groups, size),
        "C": normal(batch, time, groups, size),
        "D": normal(heads),
        "initial_state": normal(batch, heads, width, size),
    }
    return {name: tensor.float().double() for name, tensor in tensors.items()}


def resets(time: int, batch: int = 2) -> Tensor:
    reset = torch.rand(batch, time, generator=torch.Generator().manual_seed(7)) < 0.1
    reset[0, 0] = True
    return reset


def relative(found: Tensor, expected: Tensor) -> float:
    return float(
        (found.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max().clamp_min(1e-30)
    )


def ssd_with_gradients(tensors: dict[str, Tensor], dtype: torch.dtype, backend: str, **options) -> dict[str, Tensor]:
    arguments = {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}
    time = arguments["x"].shape[1]
    outputs = ssd(**arguments, return_state=True, states_at=[time - 1, 0, time // 2], backend=backend, **options)
    g = torch.Generator().manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=g, dtype=torch.float64).to(dtype)).sum() for out in outputs)
    gradients = torch.autograd.grad(loss, list(arguments.values()))
    return dict(zip(("y", "state", "states"), outputs, strict=True)) | {
        f"d{name}": grad for name, grad in zip(arguments, gradients, strict=True)
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 2, 3, 1, 4),
        (2, 4, 5, 2, 1),
        (3, 1, 1, 1, 8),
        (63, 4, 8, 1, 16),
        (64, 2, 5, 2, 33),
        (65, 6, 3, 3, 8),
        (257, 2, 8, 1, 16),
    ],
    ids=str,
)
def test_values_states_and_gradients_equal_the_recurrence(shape, backend, dtype):
    tensors, reset = problem(*shape), resets(shape[0])
    expected = ssd_with_gradients(tensors, torch.float64, "reference", reset=reset)
    for name, value in ssd_with_gradients(tensors, dtype, backend, reset=reset).items():
        assert relative(value, expected[name]) <= TOLERANCE[dtype], name


@pytest.mark.parametrize("backend", FAST)
def test_every_chunk_size_gives_the_same_result(backend):
    tensors, reset = problem(70, 4, 3, 2, 5), resets(70)
    expected = ssd_with_gradients(tensors, torch.float64, "reference", reset=reset)
    for chunk, dtype in itertools.product([1, 2, 7, 16, 32, 64, 70, 1000], TOLERANCE):
        for name, value in ssd_with_gradients(tensors, dtype, backend, reset=reset, chunk=chunk).items():
            assert relative(value, expected[name]) <= TOLERANCE[dtype], (name, chunk, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("delta", [(1e-8, 1e-6), (5.0, 200.0), (1e-8, 200.0)], ids=["tiny", "huge", "mixed"])
def test_extreme_steps_stay_finite_and_exact(delta, backend, dtype):
    tensors = problem(130, 3, 4, 1, 8, delta=delta)
    expected = ssd_with_gradients(tensors, torch.float64, "reference")
    for name, value in ssd_with_gradients(tensors, dtype, backend).items():
        assert torch.isfinite(value).all(), name
        assert relative(value, expected[name]) <= TOLERANCE[dtype], name


@pytest.mark.parametrize("backend", FAST)
def test_strong_decay_over_a_long_chunk_is_not_zero_over_zero(backend):
    time = 200
    running = torch.cumsum(torch.full((time,), -1.0), 0)
    assert torch.isnan(torch.exp(running)[-1] / torch.exp(running)[-2])  # the quotient form fails here
    tensors = {"x": torch.ones(1, time, 1, 1), "delta": torch.ones(1, time, 1), "A": -torch.ones(1)}
    tensors |= {"B": torch.ones(1, time, 1, 1), "C": torch.ones(1, time, 1, 1)}
    tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    y = ssd(**tensors, chunk=time, backend=backend)
    # With ones everywhere y_t is the geometric sum of exp(-1).
    expected = (1 - torch.exp(-torch.arange(1, time + 1).double())) / (1 - torch.exp(torch.tensor(-1.0).double()))
    torch.testing.assert_close(y.flatten().double(), expected, rtol=1e-6, atol=0)
    assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(y.sum(), list(tensors.values())))


@pytest.mark.parametrize("backend", backends("ssd", "cpu"))
@pytest.mark.parametrize("time", [1, 5])
def test_gradients_equal_finite_differences(time, backend):
    tensors = {name: tensor.requires_grad_() for name, tensor in problem(time, 2, 2, 1, 2, delta=(0.1, 1.0)).items()}
    reset = torch.zeros(2, time, dtype=torch.bool)
    reset[1, time // 2] = True

    def run(*values: Tensor) -> Any:
        named = dict(zip(tensors, values, strict=True))
        return ssd(**named, reset=reset, chunk=2, return_state=True, states_at=[time - 1, 0, 0], backend=backend)

    assert torch.autograd.gradcheck(run, tuple(tensors.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", backends("ssd", "cpu"))
@pytest.mark.parametrize("time", [1, 100])
def test_reading_states_out_does_not_change_one_bit_of_y(time, backend, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in problem(time, 4, 8, 2, 16).items()}
    y = ssd(**tensors, reset=resets(time), backend=backend)
    with_all, state, states = ssd(
        **tensors, reset=resets(time), return_state=True, states_at=range(time), backend=backend
    )
    trained = ssd(
        **{name: tensor.requires_grad_() for name, tensor in tensors.items()}, reset=resets(time), backend=backend
    )
    assert torch.equal(y, with_all) and torch.equal(y, trained)
    assert torch.equal(state, states[:, -1])


@pytest.mark.parametrize("backend", backends("ssd", "cpu"))
@pytest.mark.parametrize("cut", [1, 37, 64, 89])
def test_two_halves_with_the_state_carried_equal_one_run(cut, backend):
    tensors, reset = problem(90, 4, 3, 2, 5), resets(90)
    y, state = ssd(**tensors, reset=reset, return_state=True, backend=backend)
    part = {name: tensors[name] for name in ("x", "delta", "B", "C")}
    rest = {name: tensors[name] for name in ("A", "D")}
    before, middle = ssd(
        **{name: tensor[:, :cut] for name, tensor in part.items()}, **rest, initial_state=tensors["initial_state"],
        reset=reset[:, :cut], return_state=True, backend=backend,
    )  # fmt: skip
    after, end = ssd(
        **{name: tensor[:, cut:] for name, tensor in part.items()}, **rest, initial_state=middle,
        reset=reset[:, cut:], return_state=True, backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(torch.cat((before, after), 1), y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(end, state, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", backends("ssd", "cpu"))
def test_packed_documents_equal_separate_documents(backend):
    tensors = problem(75, 4, 3, 2, 5, batch=1)
    starts = [0, 20, 21, 64]
    reset = torch.zeros(1, 75, dtype=torch.bool)
    reset[0, starts] = True
    packed = ssd(**tensors, reset=reset, backend=backend)
    for begin, end in zip(starts, [*starts[1:], 75], strict=True):
        document = {name: tensors[name][:, begin:end] for name in ("x", "delta", "B", "C")}
        alone = ssd(**document, A=tensors["A"], D=tensors["D"], backend=backend)
        torch.testing.assert_close(packed[:, begin:end], alone, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", backends("ssd", "cpu"))
@pytest.mark.parametrize("start", [0, 3, 32])
def test_an_overflowed_document_does_not_reach_the_next_one(start, backend):
    tensors = {name: tensor.float() for name, tensor in problem(70, 2, 3, 1, 4, batch=1).items()}
    tensors["initial_state"] = torch.full_like(tensors["initial_state"], float("inf"))
    reset = torch.zeros(1, 70, dtype=torch.bool)
    reset[0, start] = True
    y, state = ssd(**tensors, reset=reset, return_state=True, backend=backend)
    assert not torch.isfinite(y[:, :start]).any()
    assert torch.isfinite(y[:, start:]).all() and torch.isfinite(state).all()


@pytest.mark.parametrize("backend", backends("ssd", "cpu"))
def test_no_gradient_reaches_the_future(backend):
    tensors = {name: tensor.float().requires_grad_() for name, tensor in problem(70, 2, 3, 1, 4).items()}
    y = ssd(**tensors, backend=backend)
    for name in ("x", "delta", "B", "C"):
        (grad,) = torch.autograd.grad(y[:, 40].sum(), tensors[name], retain_graph=True)
        assert torch.equal(grad[:, 41:], torch.zeros_like(grad[:, 41:])), name
        assert (grad[:, 40] != 0).any(), name


@pytest.mark.parametrize("backend", FAST)
def test_low_precision_inputs_are_computed_in_float32(backend):
    half = {name: tensor.to(torch.bfloat16) for name, tensor in problem(50, 2, 3, 1, 4).items()}
    expected, expected_state = ssd(
        **{name: tensor.float() for name, tensor in half.items()}, return_state=True, backend=backend
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = ssd(**half, return_state=True, backend=backend)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert torch.equal(y, expected.to(torch.bfloat16)) and torch.equal(state, expected_state)


def test_one_state_per_channel_is_the_selective_scan():
    """With head width 1 and A equal over the states, SSD and the selective scan are the same recurrence."""
    tensors = problem(40, 6, 1, 1, 5)
    y = ssd(**tensors, backend="torch")
    scanned = selective_scan(
        tensors["x"][..., 0], tensors["delta"], tensors["A"][:, None].repeat(1, 5), tensors["B"][:, :, 0],
        tensors["C"][:, :, 0], tensors["D"], initial_state=tensors["initial_state"][:, :, 0], backend="reference",
    )  # fmt: skip
    torch.testing.assert_close(y[..., 0], scanned, rtol=1e-11, atol=1e-11)


def test_heads_must_divide_into_groups_and_chunks_be_positive():
    with pytest.raises(UsageError, match="5 heads, which do not divide into the 2 groups"):
        ssd(**problem(4, 5, 2, 2, 3))
    with pytest.raises(UsageError, match="chunk is 0"):
        ssd(**problem(4, 2, 2, 1, 3), chunk=0)
