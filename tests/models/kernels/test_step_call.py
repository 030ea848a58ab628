"""One-token updates: equal to the sequence kernels with one token, and many of them to the whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.models.kernels import causal_conv, conv_step, scan_step, selective_scan, ssd, ssd_step
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Tensors = dict[str, Tensor]


def randoms(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    g = torch.Generator().manual_seed(0)
    found = {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    # Steps from 1e-4 to 10, decays negative.
    return found | {
        name: 10 ** (found[name].clamp(-2, 2) * 1.25 - 1.5) if name == "delta" else -found[name].exp()
        for name in ("delta", "A")
        if name in found
    }


def scan_problem(
    time: int, states: int = 16, channels: int = 5, readouts: int | None = None, batch: int = 2
) -> Tensors:
    middle = () if readouts is None else (readouts,)
    return randoms(
        {
            "state": (batch, channels, states), "x": (batch, time, channels), "delta": (batch, time, channels),
            "A": (channels, states), "B": (batch, time, states), "C": (batch, time, *middle, states), "D": (channels,),
        }
    )  # fmt: skip


def ssd_problem(time: int, heads: int = 6, width: int = 3, groups: int = 2, states: int = 5, batch: int = 2) -> Tensors:
    return randoms(
        {
            "state": (batch, heads, width, states), "x": (batch, time, heads, width), "delta": (batch, time, heads),
            "A": (heads,), "B": (batch, time, groups, states), "C": (batch, time, groups, states), "D": (heads,),
        }
    )  # fmt: skip


def conv_problem(time: int, taps: int = 4, channels: int = 5, batch: int = 2) -> Tensors:
    shapes = {"window": (batch, channels, taps - 1), "u": (batch, time, channels), "weight": (channels, taps)}
    return randoms(shapes | {"bias": (channels,)})


def whole(kernel: Callable[..., Any], tensors: Tensors) -> tuple[Tensor, Tensor]:
    state, *rest = tensors
    named = {name: tensors[name] for name in rest}
    return kernel(**named, initial_state=tensors[state], return_state=True, backend="reference")


PER_TOKEN = {"x", "delta", "B", "C", "u"}


def stepwise(step: Callable[..., Any], tensors: Tensors, *, inplace: bool) -> tuple[Tensor, Tensor]:
    first, *rest = tensors
    state = tensors[first].clone()
    time = next(tensor for name, tensor in tensors.items() if name in PER_TOKEN).shape[1]
    outputs = []
    for t in range(time):
        now = {name: tensors[name][:, t] if name in PER_TOKEN else tensors[name] for name in rest}
        y, new = step(state, **now, inplace=inplace)
        assert not state.numel() or (new.data_ptr() == state.data_ptr()) == inplace
        outputs.append(y)
        state = new
    return torch.stack(outputs, 1), state


CASES = {
    "scan": (scan_step, selective_scan, scan_problem),
    "scan, one state": (scan_step, selective_scan, lambda time: scan_problem(time, 1, 1, batch=1)),
    "scan, 33 states": (scan_step, selective_scan, lambda time: scan_problem(time, 33, 17)),
    "scan, three read-outs": (scan_step, selective_scan, lambda time: scan_problem(time, readouts=3)),
    "ssd": (ssd_step, ssd, ssd_problem),
    "ssd, one group": (ssd_step, ssd, lambda time: ssd_problem(time, 4, 8, 1, 33)),
    "ssd, a group per head": (ssd_step, ssd, lambda time: ssd_problem(time, 3, 1, 3, 1, batch=1)),
    "conv": (conv_step, causal_conv, conv_problem),
    "conv, two taps": (conv_step, causal_conv, lambda time: conv_problem(time, 2, 1)),
    "conv, one tap": (conv_step, causal_conv, lambda time: conv_problem(time, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_the_sequence_kernel(case):
    """With and without D or a bias, in place and not; one step is the first of many."""
    step, kernel, problem = CASES[case]
    for time, left_out in ((1, ()), (65, ()), (65, ("D", "bias"))):
        tensors = {name: tensor for name, tensor in problem(time).items() if name not in left_out}
        whole_text = whole(kernel, tensors)
        for inplace in (False, True):
            for expected, found in zip(whole_text, stepwise(step, tensors, inplace=inplace), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_step_leaves_its_arguments_as_they_were(case):
    step, _, problem = CASES[case]
    tensors = problem(1)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    stepwise(step, tensors, inplace=False)
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


@pytest.mark.parametrize("case", ["scan", "scan, three read-outs", "ssd", "conv"])
def test_gradients_through_several_steps_equal_those_of_the_sequence(case):
    step, kernel, problem = CASES[case]
    results = []
    for run in (lambda tensors: whole(kernel, tensors), lambda tensors: stepwise(step, tensors, inplace=False)):
        tensors = {name: tensor.requires_grad_() for name, tensor in problem(7).items()}
        y, state = run(tensors)
        results.append(torch.autograd.grad(y.sin().sum() + state.sum(), list(tensors.values())))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", ["scan", "scan, three read-outs", "ssd", "conv"])
def test_low_precision_tokens_are_computed_in_float32_under_autocast_too(case):
    step, _, problem = CASES[case]
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in problem(1).items()}
    state = next(iter(tensors))
    if state == "state":
        tensors = {name: tensor.float() if name in ("state", "A", "D") else tensor for name, tensor in tensors.items()}
    expected, _ = stepwise(step, {name: tensor.float() for name, tensor in tensors.items()}, inplace=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, after = stepwise(step, tensors, inplace=False)
    assert y.dtype == torch.bfloat16 and after.dtype == tensors[state].dtype
    assert torch.equal(y, expected.to(torch.bfloat16))


def one_token(tensors: Tensors) -> tuple[Tensor, Tensors]:
    """The state and the other arguments of a step."""
    state, *rest = tensors
    return tensors[state], {name: tensors[name][:, 0] if name in PER_TOKEN else tensors[name] for name in rest}


@pytest.mark.parametrize("inplace", [False, True], ids=["new state", "in place"])
@pytest.mark.parametrize("readouts", [None, 2])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_groups_of_b_and_c_in_a_scan_step(groups, readouts, inplace):
    state, now = one_token(scan_problem(1, 4, 6, readouts))
    g = torch.Generator().manual_seed(7)
    now["B"] = torch.randn(2, groups, 4, generator=g, dtype=torch.float64)
    now["C"] = torch.randn(2, *(() if readouts is None else (readouts,)), groups, 4, generator=g, dtype=torch.float64)
    B, C = (now[name].repeat_interleave(6 // groups, -2) for name in "BC")  # (..., E, N)
    after = torch.exp(now["delta"][:, :, None] * now["A"]) * state + (now["delta"] * now["x"])[:, :, None] * B
    expected = (C * (after if readouts is None else after[:, None])).sum(-1)
    (expected if readouts is None else expected[:, 0]).add_(now["D"] * now["x"])
    y, found = scan_step(state.clone(), **now, inplace=inplace)
    torch.testing.assert_close(found, after, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(UsageError, match="6 channels, which do not divide into the 4 groups"):
        scan_step(state, **now | {"B": torch.ones(2, 4, 4, dtype=torch.float64)})


@pytest.mark.parametrize("inplace", [False, True], ids=["new state", "in place"])
@pytest.mark.parametrize("own", ["delta", "A", "A of each state", "D", "all"])
def test_a_delta_an_a_and_a_d_for_every_channel_of_a_head(own, inplace):
    state, now = one_token(ssd_problem(1))
    g = torch.Generator().manual_seed(7)
    if own in ("delta", "all"):
        now["delta"] = torch.rand(2, 6, 3, generator=g, dtype=torch.float64)
    if own in ("A", "A of each state", "all"):
        now["A"] = -torch.rand(6, 3, *(() if own == "A" else (5,)), generator=g, dtype=torch.float64)
    if own in ("D", "all"):
        now["D"] = torch.randn(6, 3, generator=g, dtype=torch.float64)
    after, expected = torch.empty_like(state), torch.empty_like(now["x"])
    for b in range(2):
        for head in range(6):
            for p in range(3):
                delta, A, D = (
                    now[name][at + ((head, p) if now[name].ndim > len(at) + 1 else (head,))]
                    for name, at in (("delta", (b,)), ("A", ()), ("D", ()))
                )
                x, B, C = now["x"][b, head, p], now["B"][b, head // 3], now["C"][b, head // 3]
                after[b, head, p] = torch.exp(delta * A) * state[b, head, p] + delta * x * B
                expected[b, head, p] = after[b, head, p] @ C + D * x
    y, found = ssd_step(state.clone(), **now, inplace=inplace)
    torch.testing.assert_close(found, after, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    names = [name for name in now if now[name].is_floating_point()]
    leaves = [now[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(
        lambda *values: ssd_step(state, **dict(zip(names, values, strict=True))), leaves, fast_mode=True
    )


@pytest.mark.parametrize("inplace", [False, True], ids=["new pool", "in place"])
@pytest.mark.parametrize("case", ["scan", "scan, three read-outs", "ssd", "conv", "conv, one tap"])
def test_a_step_takes_states_from_the_rows_of_a_pool(case, inplace):
    """The first sequence has row 3, the second none: it starts from zero and leaves nothing."""
    step, _, problem = CASES[case]
    state, now = one_token(problem(1))
    pool = torch.randn(5, *state.shape[1:], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    pool[3] = state[0]
    before = pool.clone()
    expected, after = step(torch.stack([state[0], torch.zeros_like(state[1])]), **now)
    y, found = step(pool, **now, state_rows=torch.tensor([3, -1]), inplace=inplace)
    assert torch.equal(y, expected)
    assert torch.equal(found, before.index_copy(0, torch.tensor([3]), after[:1]))
    assert torch.equal(pool, found if inplace else before)
    with pytest.raises(UsageError, match="overwrite a pool that needs a gradient"):
        step(pool.clone().requires_grad_(), **now, state_rows=torch.tensor([3, -1]), inplace=True)
    with pytest.raises(UsageError, match="state_rows holds 1 twice"):
        step(pool, **now, state_rows=torch.tensor([1, 1]))
    with pytest.raises(UsageError, match="holds 5, which is neither"):
        step(pool, **now, state_rows=torch.tensor([1, 5]))


class Counted(TorchDispatchMode):
    """Counts the torch operations that compute or copy, not those that only make a view."""

    def __init__(self) -> None:
        super().__init__()
        self.computing = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aliases = [result.alias_info for result in func._schema.returns]
        self.computing += not any(alias is not None and not alias.is_write for alias in aliases)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("case", "computing"), [("scan", 7), ("scan, three read-outs", 7), ("ssd", 7), ("conv", 5)])
def test_the_number_of_operations_of_a_step(case, computing):
    """Decoding a tiny model is bound by these; if one has to be added, say why."""
    step, _, problem = CASES[case]
    tensors = problem(1)
    state, *rest = tensors
    now = {name: tensors[name][:, 0] if name in PER_TOKEN else tensors[name] for name in rest}
    with torch.inference_mode(), Counted() as counted:
        step(tensors[state], **now, inplace=True)
    assert counted.computing == computing
