"""What the kernels promise around the arithmetic: names, error texts, lazy imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.models.kernels import backends, causal_conv, operations, resolve, selective_scan


def scan_arguments() -> dict[str, torch.Tensor]:
    shapes = {"x": (2, 3, 4), "delta": (2, 3, 4), "A": (4, 5), "B": (2, 3, 5), "C": (2, 3, 5)}
    return {name: torch.ones(shape) for name, shape in shapes.items()}


def test_every_operation_has_a_reference_and_a_torch_backend():
    assert operations() == ["conv", "fft_conv", "scan", "ssd"]
    for operation in operations():
        assert {"reference", "torch"} <= set(backends(operation))


def test_auto_resolves_to_a_name_that_exists():
    for operation in operations():
        chosen = resolve(operation, torch.zeros(1))
        assert chosen == ("numba" if "numba" in backends(operation) else "torch")
        assert resolve(operation, torch.zeros(1), "reference") == "reference"
    assert resolve("scan", torch.zeros(1, device="meta")) == "torch"


def test_unknown_backend_and_operation_suggest_the_nearest():
    with pytest.raises(UsageError) as error:
        selective_scan(**scan_arguments(), backend="torsh")
    assert str(error.value).startswith("scan: no backend 'torsh'; did you mean 'torch'? valid: auto, ")
    with pytest.raises(UsageError, match="no kernel operation 'scam'; did you mean 'scan'"):
        backends("scam")


@pytest.mark.parametrize("name", ["delta", "A", "B", "C"])
def test_a_wrong_shape_names_the_argument_and_both_shapes(name):
    arguments = scan_arguments()
    expected = tuple(arguments[name].shape)
    arguments[name] = torch.ones(*expected[:-2], expected[-2] + 1, expected[-1])
    with pytest.raises(UsageError) as error:
        selective_scan(**arguments)
    message = str(error.value)
    assert message.startswith(f"selective_scan: {name} has shape {tuple(arguments[name].shape)}, expected {expected}")


def test_wrong_optional_arguments_are_named():
    arguments = scan_arguments()
    with pytest.raises(UsageError, match=r"D has shape \(3,\), expected \(4,\)"):
        selective_scan(**arguments, D=torch.ones(3))
    with pytest.raises(UsageError, match=r"initial_state has shape \(2, 5, 4\), expected \(2, 4, 5\)"):
        selective_scan(**arguments, initial_state=torch.ones(2, 5, 4))
    with pytest.raises(UsageError, match=r"reset has dtype torch.float32, expected torch.bool"):
        selective_scan(**arguments, reset=torch.zeros(2, 3))
    with pytest.raises(UsageError, match=r"reset has shape \(2, 4\), expected \(2, 3\)"):
        selective_scan(**arguments, reset=torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"states_at holds 3, outside of 0..2"):
        selective_scan(**arguments, states_at=[0, 3])
    with pytest.raises(UsageError, match="states_at has shape .* expected a 1-D integer tensor"):
        selective_scan(**arguments, states_at=torch.tensor([0.0]))


def test_mixed_precision_and_integers_are_refused():
    arguments = scan_arguments()
    with pytest.raises(UsageError, match="A has dtype torch.float64 but x has torch.float32"):
        selective_scan(**arguments | {"A": arguments["A"].double()})
    with pytest.raises(UsageError, match="B has dtype torch.int64"):
        selective_scan(**arguments | {"B": arguments["B"].long()})


def test_an_empty_sequence_is_refused():
    with pytest.raises(UsageError, match="empty sequence"):
        selective_scan(
            **{name: tensor[:, :0] if tensor.ndim == 3 else tensor for name, tensor in scan_arguments().items()}
        )
    with pytest.raises(UsageError, match="empty sequence"):
        causal_conv(torch.ones(1, 0, 2), torch.ones(2, 4))


def test_the_number_of_returned_tensors_is_what_was_asked_for():
    arguments = scan_arguments()
    assert isinstance(selective_scan(**arguments), torch.Tensor)
    y, state = selective_scan(**arguments, return_state=True)
    assert state.shape == (2, 4, 5)
    y, states = selective_scan(**arguments, states_at=[])
    assert states.shape == (2, 0, 4, 5)
    y, state, states = selective_scan(**arguments, return_state=True, states_at=torch.tensor([1, 0]))
    assert y.shape == (2, 3, 4) and states.shape == (2, 2, 4, 5)


@pytest.mark.slow
def test_importing_the_kernels_imports_no_compiler():
    code = "import sys, mplat.models.kernels as k; k.backends('scan'); sys.exit(int('numba' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
