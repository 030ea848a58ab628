"""What the kernels can do besides the plain call, in every backend against explicit loops in float64, gradients
included: groups and constants of B and C, packed documents and their states, padding, pools of states."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from kernel_loops import Numbers, Walked, conv_by_loop, scan_by_loop, ssd_by_loop
from mplat.core.errors import UsageError
from mplat.models.kernels import backends, causal_conv, fft_conv, selective_scan, ssd
from torch import Tensor

TIME = 40
FORMS = {
    "plain": ("BTN", "BTN"),
    "groups": ("BTGN", "BTGN"),
    "a group per channel": ("BTEN", "BTEN"),
    "constant B": ("EN", "BTN"),
    "constant C": ("BTN", "EN"),
    "constant B and C": ("EN", "EN"),
    "groups, constant C": ("BTGN", "EN"),
    "read-outs": ("BTN", "BTRN"),
    "groups, read-outs": ("BTGN", "BTRGN"),
    "constant B, read-outs": ("EN", "BTRN"),
}
SIZES = {"B": 3, "T": TIME, "E": 6, "N": 3, "G": 2, "R": 2, "H": 4, "P": 3, "K": 4}
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


def one_document(time: int) -> Numbers:
    return [[0] * time for _ in range(3)]


def packed(time: int) -> Numbers:
    """Documents of one token, of many, a number that comes back, and a row that is one document."""
    rows = [[0] * (time // 3) + [4] + [1] * time, [7] * (time - 1) + [3], [2] * time]
    rows[2][time // 2 :] = [5] * (time - time // 2)
    rows[2][-1] = 2
    return [row[:time] for row in rows]


def padded(time: int) -> Numbers:
    """Padding on the left, inside of a document, between two, on the right, and a row with nothing else."""
    row = [-1, -1] + [0] * (time // 2) + [-1] * 3 + [0, 0, -1, 1, 1, 1, 6] + [-1] * time
    return [row[:time], [-1] * time, ([3] * (time // 4) + [-1] + [3] + [-1, -1] + [4] * time)[:time]]


LAYOUTS = {"one": one_document, "packed": packed, "padded": padded}


def draw(shapes: dict[str, str], time: int = TIME) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    sizes = SIZES | {"T": time}
    found = {
        name: torch.randn([sizes[axis] for axis in axes], generator=g, dtype=torch.float32).double()
        for name, axes in shapes.items()
    }
    return found | {
        name: (found[name].mul(0.7).sub(1).exp() if name == "delta" else -found[name].exp()).float().double()
        for name in ("delta", "A")
        if name in found
    }


def scan_problem(form: str, time: int = TIME) -> dict[str, Tensor]:
    B, C = FORMS[form]
    return draw({"x": "BTE", "delta": "BTE", "A": "EN", "B": B, "C": C, "D": "E", "initial_state": "BEN"}, time)


def ssd_problem(constant: bool = False, time: int = TIME) -> dict[str, Tensor]:
    B, C = ("GN", "GN") if constant else ("BTGN", "BTGN")
    return draw({"x": "BTHP", "delta": "BTH", "A": "H", "B": B, "C": C, "D": "H", "initial_state": "BHPN"}, time)


def conv_problem(time: int = TIME) -> dict[str, Tensor]:
    given = draw({"u": "BTE", "weight": "EK", "bias": "E", "initial_state": "BEK"}, time)
    return given | {"initial_state": given["initial_state"][..., 1:].clone()}


PROBLEMS = {
    "scan": (selective_scan, scan_by_loop, lambda time: scan_problem("plain", time)),
    "ssd": (ssd, ssd_by_loop, lambda time: ssd_problem(time=time)),
    "conv": (causal_conv, conv_by_loop, conv_problem),
}


def agree(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for ours, right in zip(found, expected, strict=True):
        assert ours.shape == right.shape
        if right.numel():
            difference = (ours.detach().double() - right.detach()).abs().max()
            assert float(difference) <= TOLERANCE[dtype] * float(right.detach().abs().max().clamp_min(1.0))


def with_gradients(outputs: list[Tensor], arguments: dict[str, Tensor]) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=g, dtype=torch.float64).to(out.dtype)).sum() for out in outputs)
    return [*outputs, *torch.autograd.grad(loss, list(arguments.values()), materialize_grads=True)]


def expected_of(loop, numbers: Numbers, tensors: dict[str, Tensor], columns: list[int] | None) -> list[Tensor]:
    given = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    walked: Walked = loop(numbers, **given)
    read = [] if columns is None else [walked.states[:, columns]]
    return with_gradients([walked.y, walked.states[:, -1], *read, walked.documents], given)


@cache
def expected_of_form(form: str, time: int, layout: str) -> list[Tensor]:
    """Of the scan, with the states behind the last token and the first; for every backend."""
    return expected_of(scan_by_loop, LAYOUTS[layout](time), scan_problem(form, time), [time - 1, 0])


@cache
def expected_of_layout(operation: str, layout: str, time: int) -> list[Tensor]:
    _, loop, problem = PROBLEMS[operation]
    return expected_of(loop, LAYOUTS[layout](time), problem(time), states_read(operation, time))


def states_read(operation: str, time: int) -> list[int] | None:
    return None if operation == "conv" else [time // 2, time - 1]


def found_of(
    call, numbers: Numbers, tensors: dict[str, Tensor], columns: list[int] | None, dtype: torch.dtype, backend: str
) -> list[Tensor]:
    given = {name: tensor.to(dtype, copy=True).requires_grad_() for name, tensor in tensors.items()}
    options = {} if columns is None else {"states_at": columns}
    outputs = call(
        **given, **options, seq_idx=torch.tensor(numbers), return_state=True, return_document_states=True,
        backend=backend,
    )  # fmt: skip
    return with_gradients(list(outputs), given)


@pytest.mark.parametrize("backend", backends("scan", "cpu"))
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_b_and_c(form, backend):
    for time, layout in ((TIME, "packed"), (1, "one")):
        tensors, numbers, columns = scan_problem(form, time), LAYOUTS[layout](time), [time - 1, 0]
        expected = expected_of_form(form, time, layout)
        for dtype in TOLERANCE:
            agree(found_of(selective_scan, numbers, tensors, columns, dtype, backend), expected, dtype)


@pytest.mark.parametrize("backend", backends("ssd", "cpu"))
def test_constant_b_and_c_of_the_ssd(backend):
    tensors, numbers = ssd_problem(constant=True), packed(TIME)
    expected = expected_of(ssd_by_loop, numbers, tensors, [3])
    agree(found_of(ssd, numbers, tensors, [3], torch.float64, backend), expected, torch.float64)


@pytest.mark.parametrize(
    ("operation", "backend"), [(name, backend) for name in PROBLEMS for backend in backends(name, "cpu")]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_documents_and_padding_by_number(operation, backend, layout):
    call, _, problem = PROBLEMS[operation]
    for time in (1, 3, TIME):
        tensors, numbers = problem(time), LAYOUTS[layout](time)
        columns, expected = states_read(operation, time), expected_of_layout(operation, layout, time)
        for dtype in TOLERANCE:
            agree(found_of(call, numbers, tensors, columns, dtype, backend), expected, dtype)


@pytest.mark.parametrize("backend", backends("fft_conv", "cpu"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_long_convolution_by_number(layout, backend):
    tensors, numbers = conv_problem(), LAYOUTS[layout](TIME)
    given = [tensor.clone().requires_grad_() for tensor in tensors.values()]
    # Lag 0 first, and D in place of a bias.
    by_loop = conv_by_loop(numbers, given[0], given[1], torch.zeros_like(given[2]), given[3])
    keep = torch.tensor(numbers)[..., None] >= 0
    expected = with_gradients([by_loop.y + torch.where(keep, given[2] * given[0], 0.0)], dict(enumerate(given)))
    given = [tensor.clone().requires_grad_() for tensor in tensors.values()]
    y = fft_conv(given[0], given[1].flip(1), given[2], history=given[3], seq_idx=torch.tensor(numbers), backend=backend)
    agree(with_gradients([y], dict(enumerate(given))), expected, torch.float64)


@pytest.mark.parametrize(
    ("operation", "backend"), [(name, backend) for name in PROBLEMS for backend in backends(name, "cpu")]
)
def test_what_padding_holds_reaches_nothing(operation, backend):
    call, _, problem = PROBLEMS[operation]
    clean, numbers = problem(TIME), torch.tensor(padded(TIME))
    dirty = {
        name: torch.where((numbers == -1).view(3, TIME, *(1,) * (tensor.ndim - 2)), float("nan"), tensor)
        if name in ("x", "u", "delta", "B", "C")
        else tensor
        for name, tensor in clean.items()
    }
    results = []
    for tensors in (clean, dirty):
        given = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        outputs = call(**given, seq_idx=numbers, return_state=True, return_document_states=True, backend=backend)
        results.append(with_gradients(list(outputs), given))
    for expected, found in zip(*results, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("operation", "backend"), [(name, backend) for name in PROBLEMS for backend in backends(name, "cpu")]
)
def test_resets_have_document_states_too(operation, backend):
    """A row that starts at its first token, one that goes on from the initial state, and one without any reset."""
    call, loop, problem = PROBLEMS[operation]
    tensors = problem(TIME)
    reset = torch.zeros(3, TIME, dtype=torch.bool)
    reset[0, [0, 5, 6]] = True
    reset[1, TIME - 1] = True
    numbers = reset.long().cumsum(1).tolist()
    started = tensors | {"initial_state": tensors["initial_state"].clone()}
    started["initial_state"][0] = 0.0
    walked = loop(numbers, **started)
    y, documents = call(**tensors, reset=reset, return_document_states=True, backend=backend)
    assert len(documents) == 3 + 2 + 1
    agree([y, documents], [walked.y, walked.documents], torch.float64)
    alone = call(**tensors, return_document_states=True, backend=backend)[1]
    agree([alone], [call(**tensors, return_state=True, backend=backend)[1]], torch.float64)


def pool_for(tensors: dict[str, Tensor], rows: list[int], size: int) -> Tensor:
    shape = tensors["initial_state"].shape[1:]
    pool = torch.randn(size, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return pool.index_copy(0, torch.tensor(rows), tensors["initial_state"])


@pytest.mark.parametrize(
    ("operation", "backend"), [(name, backend) for name in PROBLEMS for backend in backends(name, "cpu")]
)
@pytest.mark.parametrize("time", [1, TIME])
def test_states_come_from_the_rows_of_a_pool_and_go_back_there(operation, backend, time):
    call, loop, problem = PROBLEMS[operation]
    tensors, rows = problem(time), [4, 0, 2]
    pool = pool_for(tensors, rows, 6)
    walked = loop(one_document(time), **tensors)
    after = pool.index_copy(0, torch.tensor(rows), walked.states[:, -1])
    given, at = tensors | {"initial_state": pool.clone().requires_grad_()}, torch.tensor(rows, dtype=torch.int32)
    y, found = call(**given, state_rows=at, return_state=True, backend=backend)
    agree([y, found], [walked.y, after], torch.float64)
    (gradient,) = torch.autograd.grad(found.sin().sum() + y.sum(), given["initial_state"])
    start = tensors["initial_state"].clone().requires_grad_()
    own = loop(one_document(time), **tensors | {"initial_state": start})
    (inside,) = torch.autograd.grad(own.states[:, -1].sin().sum() + own.y.sum(), start)
    agree([gradient], [pool.cos().index_copy(0, torch.tensor(rows), inside)], torch.float64)

    kept = given["initial_state"].detach()
    with torch.no_grad():
        y, found = call(
            **tensors | {"initial_state": kept}, state_rows=at, return_state=True, inplace=True, backend=backend
        )
    assert found.data_ptr() == kept.data_ptr()
    agree([y, kept], [walked.y, after], torch.float64)


@pytest.mark.parametrize("operation", PROBLEMS)
def test_a_sequence_without_a_row_starts_from_zero_and_leaves_nothing(operation):
    call, loop, problem = PROBLEMS[operation]
    tensors = problem(TIME)
    rows = torch.tensor([1, -1, 0])
    for size in (2, 3):
        pool = pool_for(tensors, [0, 1, 2], 3)[:size]
        start = torch.stack([pool[1], torch.zeros_like(pool[0]), pool[0]])
        walked = loop(one_document(TIME), **tensors | {"initial_state": start})
        y, found = call(**tensors | {"initial_state": pool}, state_rows=rows, return_state=True)
        agree([y, found[:2]], [walked.y, walked.states[[2, 0], -1]], torch.float64)
        assert torch.equal(found[2:], pool[2:])
    y = call(**tensors | {"initial_state": pool[:0]}, state_rows=torch.tensor([-1, -1, -1]))
    agree([y], [call(**tensors | {"initial_state": None})], torch.float64)
    # Reading one row twice is no conflict.
    y = call(**tensors | {"initial_state": pool}, state_rows=torch.tensor([1, 1, 1]))
    agree([y], [call(**tensors | {"initial_state": pool[[1, 1, 1]]})], torch.float64)


@pytest.mark.parametrize("operation", PROBLEMS)
def test_rows_and_numbers_that_mean_nothing_are_refused(operation):
    call, _, problem = PROBLEMS[operation]
    tensors = problem(3)
    pool = tensors | {"initial_state": pool_for(tensors, [0, 1, 2], 4)}
    with pytest.raises(UsageError, match="state_rows holds 4, which is neither one of the pool's 4 rows nor -1"):
        call(**pool, state_rows=torch.tensor([0, 4, 1]))
    with pytest.raises(UsageError, match="state_rows holds -2"):
        call(**pool, state_rows=torch.tensor([0, -2, 1]))
    with pytest.raises(UsageError, match="state_rows holds 3 twice"):
        call(**pool, state_rows=torch.tensor([3, 1, 3]), return_state=True)
    with pytest.raises(UsageError, match=r"state_rows has shape \(2,\), expected \(3,\)"):
        call(**pool, state_rows=torch.tensor([0, 1]))
    with pytest.raises(UsageError, match="state_rows without a pool"):
        call(**pool | {"initial_state": None}, state_rows=torch.tensor([0, 1, 2]))
    with pytest.raises(UsageError, match="name its rows with state_rows"):
        call(**tensors, return_state=True, inplace=True)
    with pytest.raises(UsageError, match="inplace without return_state"):
        call(**pool, state_rows=torch.tensor([0, 1, 2]), inplace=True)
    wanted = pool | {"initial_state": pool["initial_state"].requires_grad_()}
    with pytest.raises(UsageError, match="overwrite a pool that needs a gradient"):
        call(**wanted, state_rows=torch.tensor([0, 1, 2]), return_state=True, inplace=True)
    with pytest.raises(UsageError, match="state_rows is on meta but initial_state is on cpu"):
        call(**pool, state_rows=torch.tensor([0, 1, 2], device="meta"))
    numbers = torch.zeros(3, 3, dtype=torch.long)
    with pytest.raises(UsageError, match="give one of them"):
        call(**tensors, seq_idx=numbers, reset=numbers.bool())
    with pytest.raises(UsageError, match="seq_idx has dtype torch.bool"):
        call(**tensors, seq_idx=numbers.bool())
    with pytest.raises(UsageError, match="seq_idx holds -3"):
        call(**tensors, seq_idx=numbers - 3)
    with pytest.raises(UsageError, match=r"seq_idx has shape \(3, 2\), expected \(3, 3\)"):
        call(**tensors, seq_idx=numbers[:, :2])


def test_forms_that_mean_nothing_are_refused():
    tensors = scan_problem("groups")
    with pytest.raises(UsageError, match="6 channels, which do not divide into the 4 groups of B"):
        selective_scan(**tensors | {"B": torch.ones(3, TIME, 4, 3, dtype=torch.float64)})
    with pytest.raises(UsageError, match=r"C has shape \(3, 40, 3, 3\), expected \(3, 40, 2, 3\)"):
        selective_scan(**tensors | {"C": torch.ones(3, TIME, 3, 3, dtype=torch.float64)})
    with pytest.raises(UsageError, match=r"B has shape \(6, 2\), expected \(6, 3\) = \(channels, states\)"):
        selective_scan(**tensors | {"B": torch.ones(6, 2, dtype=torch.float64)})
    with pytest.raises(UsageError, match="A has dtype torch.complex128, expected a floating type"):
        selective_scan(**tensors | {"A": tensors["A"].to(torch.complex128)})


@pytest.mark.parametrize("backend", backends("scan", "cpu"))
def test_no_states_or_sequences_in_other_forms(backend):
    for form in FORMS:
        for axis in "BNE":
            tensors = scan_problem(form)
            B, C = FORMS[form]
            if axis in B[2:-1]:  # no channels would be no groups
                continue
            shapes = {"x": "BTE", "delta": "BTE", "A": "EN", "B": B, "C": C, "D": "E", "initial_state": "BEN"}
            given = {
                name: tensor[tuple(slice(0, 0) if a == axis else slice(None) for a in shapes[name])].requires_grad_()
                for name, tensor in tensors.items()
            }
            y, state = selective_scan(**given, return_state=True, backend=backend)
            assert state.shape == given["initial_state"].shape
            expected = given["D"] * given["x"]
            assert torch.equal(y if y.ndim == 3 else y[:, :, 0], expected)
            torch.autograd.grad(y.sum() + state.sum(), list(given.values()))
