"""The long convolution by FFT: equal to the direct sum, whole or in pieces, one document or packed, and exactly
causal."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.models.kernels import backends, fft_conv
from mplat.models.kernels.fft_conv.fft_conv_torch import block_length, fast_length
from torch import Tensor

FAST = [name for name in backends("fft_conv", "cpu") if name != "reference"]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}
# (time, lags, earlier inputs, channels)
SHAPES = [
    (1, 1, 0, 1), (1, 5, 3, 5), (2, 1, 4, 3), (3, 7, 0, 17), (63, 64, 0, 5), (64, 63, 100, 3), (65, 65, 64, 5),
    (65, 3, 1, 33), (64, 1000, 7, 2), (1000, 1000, 0, 3), (200, 150, 70, 3), (129, 300, 400, 2), (5, 70, 900, 2),
]  # fmt: skip


@cache
def problem(time: int, lags: int, earlier: int, channels: int) -> tuple[dict[str, Tensor], Tensor]:
    """Random arguments in float64, exact in float32, and a reset mask in which one row begins with a new document."""
    g = torch.Generator().manual_seed(time)
    shapes = {"u": (2, time, channels), "kernel": (channels, lags), "D": (channels,), "history": (2, channels, earlier)}
    reset = torch.rand(2, time, generator=g) < 0.1
    reset[0, 0], reset[1, 0] = True, False
    return {name: torch.randn(shape, generator=g).double() for name, shape in shapes.items()}, reset


def with_gradients(tensors: dict[str, Tensor], dtype: torch.dtype, backend: str, reset: Tensor | None) -> list[Tensor]:
    """y and the gradient of every argument, in the order of `tensors`."""
    tensors = {name: tensor.to(dtype, copy=True).requires_grad_() for name, tensor in tensors.items()}
    y = fft_conv(**tensors, reset=reset, backend=backend)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return [y.detach(), *torch.autograd.grad((y * slope).sum(), list(tensors.values()), materialize_grads=True)]


@cache
def definition(shape: tuple[int, int, int, int], packed: bool) -> list[Tensor]:
    tensors, reset = problem(*shape)
    return with_gradients(tensors, torch.float64, "reference", reset if packed else None)


def relative(found: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_equal_the_direct_sum(shape, backend, packed):
    tensors, reset = problem(*shape)
    for dtype in TOLERANCE:
        found = with_gradients(tensors, dtype, backend, reset if packed else None)
        for name, value, expected in zip(("y", *tensors), found, definition(shape, packed), strict=True):
            assert value.dtype == dtype
            assert relative(value, expected) <= TOLERANCE[dtype], name


@pytest.mark.parametrize("backend", backends("fft_conv", "cpu"))
def test_equals_the_product_with_a_toeplitz_matrix(backend):
    tensors, _ = problem(65, 65, 64, 5)
    u, kernel, D, history = tensors.values()
    inputs = torch.cat((history, u.transpose(1, 2)), 2)
    lag = torch.arange(64, 129)[:, None] - torch.arange(129)
    matrix = torch.where((lag >= 0) & (lag < 65), kernel[:, lag.clamp(0, 64)], 0.0)
    expected = torch.einsum("etj,bej->bte", matrix, inputs) + D * u
    assert relative(fft_conv(u, kernel, D, history=history, backend=backend), expected) <= 1e-13


@pytest.mark.parametrize("backend", backends("fft_conv", "cpu"))
@pytest.mark.parametrize("shape", [(1, 4, 2, 2), (7, 3, 5, 2), (5, 9, 2, 3)], ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
def test_gradients_equal_finite_differences(shape, packed, backend):
    tensors, _ = problem(*shape)
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    reset = torch.zeros(2, shape[0], dtype=torch.bool)
    reset[1, shape[0] // 2] = packed

    def run(*values: Tensor) -> Any:
        return fft_conv(**dict(zip(tensors, values, strict=True)), reset=reset, backend=backend)

    assert torch.autograd.gradcheck(run, tuple(tensors.values()))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("wanted", ["u", "kernel", "D", "history"])
def test_the_gradient_of_one_argument_alone(wanted, backend):
    tensors, _ = problem(7, 3, 5, 2)
    argument = tensors[wanted].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: fft_conv(**tensors | {wanted: value}, backend=backend), argument)


@pytest.mark.parametrize("backend", backends("fft_conv", "cpu"))
@pytest.mark.parametrize("cuts", [(1,), (2, 3), (10, 11, 40), (64,)], ids=str)
@pytest.mark.parametrize("lags", [3, 65, 200])
def test_pieces_with_their_history_equal_the_whole_text(lags, cuts, backend):
    tensors, reset = problem(65, lags, 0, 5)
    u, kernel, D = tensors["u"], tensors["kernel"], tensors["D"]
    whole = fft_conv(u, kernel, D, reset=reset, backend=backend)
    pieces = [
        fft_conv(u[:, a:b], kernel, D, history=u[:, :a].transpose(1, 2), reset=reset[:, a:b], backend=backend)
        for a, b in zip((0, *cuts), (*cuts, 65), strict=True)
    ]
    # A document that began in an earlier piece: its history is cut where it began.
    for i, (a, b) in enumerate(zip((0, *cuts), (*cuts, 65), strict=True)):
        for row in range(2):
            begun = [t for t in range(a) if reset[row, t]]
            if begun:
                history = u[row : row + 1, begun[-1] : a].transpose(1, 2)
                part = slice(row, row + 1)
                pieces[i][part] = fft_conv(
                    u[part, a:b], kernel, D, history=history, reset=reset[part, a:b], backend=backend
                )
    assert relative(torch.cat(pieces, 1), whole) <= 1e-13


@pytest.mark.parametrize("backend", backends("fft_conv", "cpu"))
def test_a_document_at_every_position_equals_that_document_alone(backend):
    """Row b starts its second document at token b."""
    time, (tensors, _) = 33, problem(33, 40, 0, 3)
    u, kernel, D = tensors["u"][:1].expand(time, -1, -1), tensors["kernel"], tensors["D"]
    reset = torch.eye(time, dtype=torch.bool)
    y = fft_conv(u, kernel, D, reset=reset, backend=backend)
    for start in range(time):
        first, second = u[:1, :start], u[:1, start:]
        assert relative(y[start : start + 1, start:], fft_conv(second, kernel, D, backend=backend)) <= 1e-13
        if start:
            assert relative(y[start : start + 1, :start], fft_conv(first, kernel, D, backend=backend)) <= 1e-13


@pytest.mark.parametrize("backend", backends("fft_conv", "cpu"))
def test_an_overflowed_document_does_not_reach_the_next_one(backend):
    tensors, _ = problem(12, 12, 3, 5)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    reset = torch.zeros(2, 12, dtype=torch.bool)
    reset[:, 6] = True
    clean = fft_conv(**tensors, reset=reset, backend=backend)
    tensors["u"][:, :6] = float("inf")
    tensors["history"][:] = float("nan")
    tensors["u"].requires_grad_()
    y = fft_conv(**tensors, reset=reset, backend=backend)
    assert torch.equal(y[:, 6:], clean[:, 6:]) and not torch.isfinite(y[:, :6]).any()
    (grad,) = torch.autograd.grad(y[:, 6:].sum(), tensors["u"])
    assert torch.isfinite(grad[:, 6:]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("at", [0, 63, 64, 500])
@pytest.mark.parametrize("backend", backends("fft_conv", "cpu"))
def test_nothing_at_all_reaches_the_past(backend, at, dtype):
    """Not even rounding: every bit before a changed input is as it was, and every gradient to the future is zero."""
    tensors, _ = problem(1000, 1000, 0, 3)
    u, kernel = tensors["u"].to(dtype, copy=True).requires_grad_(), tensors["kernel"].to(dtype)
    y = fft_conv(u, kernel, backend=backend)
    (grad,) = torch.autograd.grad(y[:, at].sum(), u)
    assert not grad[:, at + 1 :].any() and grad[:, : at + 1].any()
    changed = u.detach().clone()
    changed[:, at + 1 :] += 1
    again = fft_conv(changed, kernel, backend=backend)
    assert torch.equal(again[:, : at + 1], y[:, : at + 1]) and not torch.equal(again, y)


@pytest.mark.parametrize("total", [1, 64, 65, 2048, 100_000])
def test_blocks_are_powers_of_two_near_twice_the_root(total):
    size = block_length(total)
    assert size & (size - 1) == 0
    assert size == 64 or total**0.5 <= size <= 2 * total**0.5


def test_low_precision_inputs_come_back_in_their_type():
    tensors, _ = problem(64, 63, 100, 3)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fft_conv(**tensors)
    expected = fft_conv(**{name: tensor.float() for name, tensor in tensors.items()})
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected.to(torch.bfloat16))


def test_fast_lengths_are_short_and_have_small_factors():
    for least in range(1, 3000):
        found = fast_length(least)
        assert least <= found <= 1.25 * least + 1
        for factor in (2, 3, 5):
            while found % factor == 0:
                found //= factor
        assert found == 1


def test_wrong_arguments_are_named():
    u, kernel = torch.ones(2, 3, 4), torch.ones(4, 5)
    with pytest.raises(UsageError, match=r"fft_conv: kernel has shape \(3, 5\), expected \(4, 5\)"):
        fft_conv(u, torch.ones(3, 5))
    with pytest.raises(UsageError, match=r"kernel has shape \(4, 0\), expected at least one lag"):
        fft_conv(u, torch.ones(4, 0))
    with pytest.raises(UsageError, match=r"D has shape \(3,\), expected \(4,\)"):
        fft_conv(u, kernel, torch.ones(3))
    with pytest.raises(UsageError, match=r"history has shape \(2, 7, 4\), expected \(2, 4, 4\)"):
        fft_conv(u, kernel, history=torch.ones(2, 7, 4))
    with pytest.raises(UsageError, match="reset has dtype torch.float32"):
        fft_conv(u, kernel, reset=torch.zeros(2, 3))
    with pytest.raises(UsageError, match="kernel has dtype torch.float64 but u has torch.float32"):
        fft_conv(u, kernel.double())
    with pytest.raises(UsageError, match="empty sequence"):
        fft_conv(u[:, :0], kernel)
