"""Calls without sequences, channels or states: the same empty result, or D x alone, from every backend; calls without
tokens, taps or groups: the same sentence."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.models.kernels import (
    backends,
    causal_conv,
    conv_step,
    fft_conv,
    operations,
    resolve,
    scan_step,
    selective_scan,
    ssd,
    ssd_step,
)
from torch import Tensor

CALLS = {"scan": selective_scan, "ssd": ssd, "conv": causal_conv, "fft_conv": fft_conv}


def tensors(operation: str, **empty: int) -> dict[str, Tensor]:
    """Random arguments of an operation in float64, with the sizes named in `empty` changed."""
    s = {"batch": 2, "time": 5, "channels": 3, "states": 4, "heads": 4, "width": 3, "groups": 2, "taps": 3} | empty
    B, T, E, N, H, P, G, K = s.values()
    shapes = {
        "scan": {
            "x": (B, T, E), "delta": (B, T, E), "A": (E, N), "B": (B, T, N), "C": (B, T, N), "D": (E,),
            "initial_state": (B, E, N),
        },
        "ssd": {
            "x": (B, T, H, P), "delta": (B, T, H), "A": (H,), "B": (B, T, G, N), "C": (B, T, G, N), "D": (H,),
            "initial_state": (B, H, P, N),
        },
        "conv": {"u": (B, T, E), "weight": (E, K), "bias": (E,), "initial_state": (B, E, max(0, K - 1))},
        "fft_conv": {"u": (B, T, E), "kernel": (E, K), "D": (E,), "history": (B, E, 4)},
    }  # fmt: skip
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes[operation].items()}


EMPTY = [
    ("scan", "batch"), ("scan", "channels"), ("scan", "states"), ("ssd", "batch"), ("ssd", "heads"), ("ssd", "width"),
    ("ssd", "states"), ("conv", "batch"), ("conv", "channels"), ("fft_conv", "batch"), ("fft_conv", "channels"),
]  # fmt: skip
EVERY = [(operation, axis, backend) for operation, axis in EMPTY for backend in backends(operation, "cpu")]


@pytest.mark.parametrize(("operation", "axis", "backend"), EVERY)
def test_an_empty_axis_gives_what_is_left_of_the_definition(operation, axis, backend):
    for time, grad in itertools.product((1, 5), (True, False)):
        check_empty(operation, axis, backend, time, grad)


def check_empty(operation: str, axis: str, backend: str, time: int, grad: bool) -> None:
    given = {name: tensor.requires_grad_(grad) for name, tensor in tensors(operation, time=time, **{axis: 0}).items()}
    states: dict[str, Any] = {} if operation == "fft_conv" else {"return_state": True}
    if operation in ("scan", "ssd"):
        states["states_at"] = [0, time - 1]
    reset = torch.zeros(len(next(iter(given.values()))), time, dtype=torch.bool)
    for resets in (None, reset):
        with torch.set_grad_enabled(grad):
            found = CALLS[operation](**given, **states, reset=resets, backend=backend)
        y, *read = (found,) if isinstance(found, Tensor) else found
        x = given.get("x", given.get("u"))
        assert y.shape == x.shape and y.dtype == torch.float64
        if axis == "states":  # nothing is remembered: y = D x
            torch.testing.assert_close(y, x * (given["D"] if operation == "scan" else given["D"][:, None]))
        else:
            assert y.numel() == 0
        if read:
            assert read[0].shape == given["initial_state"].shape
        if len(read) == 2:
            assert read[1].shape == (read[0].shape[0], 2, *read[0].shape[1:])
        if grad:
            gradients = torch.autograd.grad(sum(part.sum() for part in (y, *read)), list(given.values()))
            for tensor, gradient in zip(given.values(), gradients, strict=True):
                assert gradient.shape == tensor.shape and torch.isfinite(gradient).all()
            if axis == "states":
                torch.testing.assert_close(gradients[list(given).index("D")].sum(), x.sum())


@pytest.mark.parametrize("backend", backends("scan", "cpu"))
def test_several_read_outs_of_no_states(backend):
    given = tensors("scan", states=0)
    y = selective_scan(**given | {"C": given["C"][:, :, None].expand(-1, -1, 3, -1)}, backend=backend)
    expected = torch.zeros(2, 5, 3, 3, dtype=torch.float64)
    expected[:, :, 0] = given["D"] * given["x"]
    assert torch.equal(y, expected)


@pytest.mark.parametrize("axis", ["batch", "channels", "states", "heads", "width"])
def test_steps_with_an_empty_axis(axis):
    for operation, step in (("scan", scan_step), ("ssd", ssd_step), ("conv", conv_step)):
        if (operation, axis) not in EMPTY:
            continue
        given = tensors(operation, time=1, **{axis: 0})
        state = given.pop("initial_state")
        if operation == "conv":
            expected = causal_conv(**given, initial_state=state, return_state=True, backend="reference")
        else:
            expected = CALLS[operation](**given, initial_state=state, return_state=True, backend="reference")
        now = {n: t[:, 0] if n in ("x", "u", "delta", "B", "C") else t for n, t in given.items()}
        y, after = step(state, **now)
        torch.testing.assert_close(y, expected[0][:, 0])
        torch.testing.assert_close(after, expected[1])


def sentences(operation: str, **empty: int) -> set[str]:
    found = set()
    for backend in backends(operation, "cpu"):
        with pytest.raises(UsageError) as error:
            CALLS[operation](**tensors(operation, **empty), backend=backend)
        found.add(str(error.value))
    return found


@pytest.mark.parametrize(
    ("operation", "axis", "words"),
    [(name, "time", "empty sequence") for name in CALLS]
    + [("conv", "taps", "at least one tap"), ("fft_conv", "taps", "at least one lag"), ("ssd", "groups", "0 groups")],
)
def test_what_has_no_result_is_one_sentence_in_all_backends(operation, axis, words):
    (sentence,) = sentences(operation, **{axis: 0})
    assert words in sentence


def test_steps_without_groups_are_refused_as_the_sequence_is():
    given = tensors("ssd", time=1, groups=0)
    now = {n: t[:, 0] if n in ("x", "delta", "B", "C") else t for n, t in given.items() if n != "initial_state"}
    with pytest.raises(UsageError, match="4 heads, which do not divide into the 0 groups"):
        ssd_step(given["initial_state"], **now)


def test_an_empty_call_still_names_a_backend_that_does_not_exist():
    for operation in operations():
        with pytest.raises(UsageError, match="no backend 'nimba'"):
            CALLS[operation](**tensors(operation, batch=0), backend="nimba")
        assert resolve(operation, torch.zeros(0)) in backends(operation)
