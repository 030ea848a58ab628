"""The wrappers of mamba_ssm and causal_conv1d, with stand-ins for these packages that compute from the layout which
their public signatures document; and which backend a call gets where they are installed."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mplat.core.errors import UsageError
from mplat.models.kernels import backend as registry
from mplat.models.kernels import causal_conv, resolve, selective_scan, ssd
from torch import Tensor

GPU = SimpleNamespace(device=torch.device("cuda"))


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """u, delta (B,D,L); A (D,N); B, C (B,N,L); D (D) -> (B,D,L), last_state (B,D,N)."""
    assert z is None and delta_bias is None and not delta_softplus
    state, outputs = torch.zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        dt = delta[:, :, t, None]
        state = torch.exp(dt * A) * state + dt * u[:, :, t, None] * B[:, None, :, t]
        outputs.append((state * C[:, None, :, t]).sum(2) + (0 if D is None else D * u[:, :, t]))
    y = torch.stack(outputs, 2)
    return (y, state) if return_last_state else y


def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,
    dt_softplus=False, dt_limit=(0.0, float("inf")), return_final_states=False,
):  # fmt: skip
    """x (B,L,H,P); dt (B,L,H); A (H); B, C (B,L,G,N); D (H); initial_states (B,H,P,N); seq_idx (B,L) int32."""
    assert z is None and dt_bias is None and cu_seqlens is None and not dt_softplus
    assert chunk_size & (chunk_size - 1) == 0
    batch, length, heads, width = x.shape
    B, C = (each.repeat_interleave(heads // each.shape[2], 2) for each in (B, C))
    state = torch.zeros(batch, heads, width, B.shape[3]) if initial_states is None else initial_states
    outputs = []
    for t in range(length):
        if seq_idx is not None and t:
            assert seq_idx.dtype == torch.int32
            state = torch.where((seq_idx[:, t] == seq_idx[:, t - 1])[:, None, None, None], state, 0.0)
        written = (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        state = torch.exp(dt[:, t] * A)[..., None, None] * state + written
        outputs.append((state * C[:, t, :, None]).sum(3) + (0 if D is None else D[:, None] * x[:, t]))
    y = torch.stack(outputs, 1)
    return (y, state) if return_final_states else y


def causal_conv1d_fn(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None,
    activation=None,
):  # fmt: skip
    """x (B,D,L); weight (D,W); bias (D); seq_idx (B,L) int32 or initial_states (B,D,W-1), both channel-last."""
    assert activation is None and not return_final_states and final_states_out is None
    assert x.stride(1) == 1 and (seq_idx is None or initial_states is None)
    width, length = weight.shape[1], x.shape[2]
    if initial_states is not None:
        assert initial_states.stride(1) == 1
        x = torch.cat((initial_states, x), 2)
    else:
        x = F.pad(x, (width - 1, 0))
    y = torch.zeros(x.shape[0], x.shape[1], length)
    for i in range(width):
        tap = weight[:, i, None] * x[:, :, i : i + length]
        if seq_idx is not None:
            assert seq_idx.dtype == torch.int32
            same = F.pad(seq_idx, (width - 1, 0), value=-1)[:, i : i + length] == seq_idx
            tap = torch.where(same[:, None], tap, 0.0)
        y = y + tap
    return y if bias is None else y + bias[:, None]


@pytest.fixture
def packages(monkeypatch):
    """Both packages, as far as Python can see; their tensors may be on the CPU."""
    functions = {
        "mamba_ssm": None,
        "mamba_ssm.ops": None,
        "mamba_ssm.ops.selective_scan_interface": selective_scan_fn,
        "mamba_ssm.ops.triton": None,
        "mamba_ssm.ops.triton.ssd_combined": mamba_chunk_scan_combined,
        "causal_conv1d": causal_conv1d_fn,
    }
    for name, function in functions.items():
        module = ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None), []
        if function is not None:
            setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
    installed = registry._installed
    monkeypatch.setattr(registry, "_installed", lambda name: name in functions or installed(name))
    monkeypatch.delitem(registry.DEVICE, "cuda")


def scan_problem() -> dict[str, Tensor]:
    shapes = {"x": (2, 9, 8), "delta": (2, 9, 8), "A": (8, 3), "B": (2, 9, 3), "C": (2, 9, 3), "D": (8,)}
    g = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    return tensors | {"delta": F.softplus(tensors["delta"]), "A": -tensors["A"].exp()}


def ssd_problem() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 9, 4, 5), "delta": (2, 9, 4), "A": (4,), "B": (2, 9, 2, 3), "C": (2, 9, 2, 3), "D": (4,)}
    tensors = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    return tensors | {"delta": F.softplus(tensors["delta"]), "A": -tensors["A"].exp()}


def reset_mask() -> Tensor:
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, [0, 4, 5]] = reset[1, 7] = True
    return reset


def assert_equal(run, tensors: dict[str, Tensor], **options) -> None:
    expected, found = (run(**tensors, **options, backend=name) for name in ("reference", "cuda"))
    if isinstance(expected, Tensor):
        expected, found = (expected,), (found,)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("packages")
def test_the_scan_passes_its_arguments_in_the_layout_of_mamba_ssm():
    assert_equal(selective_scan, scan_problem())
    assert_equal(selective_scan, scan_problem() | {"D": None})
    assert_equal(selective_scan, scan_problem(), return_state=True, states_at=[8])


@pytest.mark.usefixtures("packages")
def test_the_ssd_passes_its_arguments_in_the_layout_of_mamba_ssm():
    assert_equal(ssd, ssd_problem(), chunk=5)
    assert_equal(ssd, ssd_problem() | {"D": None}, return_state=True)
    assert_equal(ssd, ssd_problem(), initial_state=torch.randn(2, 4, 5, 3), return_state=True)
    assert_equal(ssd, ssd_problem(), reset=reset_mask(), return_state=True)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("taps", [2, 3, 4])
def test_the_convolution_passes_its_arguments_in_the_layout_of_causal_conv1d(taps):
    tensors = {"u": torch.randn(2, 9, 8), "weight": torch.randn(8, taps), "bias": torch.randn(8)}
    assert_equal(causal_conv, tensors, return_state=True)
    assert_equal(causal_conv, tensors | {"bias": None}, initial_state=torch.randn(2, 8, taps - 1))
    assert_equal(causal_conv, tensors, reset=reset_mask())


@pytest.mark.usefixtures("packages")
def test_what_the_packages_cannot_do_is_refused_by_name():
    scan, chunked = scan_problem(), ssd_problem()
    start, reset = torch.zeros(2, 8, 3), reset_mask()
    several = scan | {"C": torch.zeros(2, 9, 2, 3)}
    trained = scan | {"x": scan["x"].clone().requires_grad_()}
    double = {name: tensor.double() for name, tensor in scan.items()}
    u, weight = torch.randn(2, 9, 8), torch.randn(8, 4)
    for what, call in {
        "float64": lambda: selective_scan(**double, backend="cuda"),
        "an initial state": lambda: selective_scan(**scan, initial_state=start, backend="cuda"),
        "resets": lambda: selective_scan(**scan, reset=reset, backend="cuda"),
        "several read-outs": lambda: selective_scan(**several, backend="cuda"),
        "states before the last": lambda: selective_scan(**scan, states_at=[3], backend="cuda"),
        "the gradient of a state": lambda: selective_scan(**trained, return_state=True, backend="cuda"),
        "resets together": lambda: ssd(**chunked, initial_state=torch.zeros(2, 4, 5, 3), reset=reset, backend="cuda"),
        "states before": lambda: ssd(**chunked, states_at=[3], backend="cuda"),
        "5 taps": lambda: causal_conv(u, torch.randn(8, 5), backend="cuda"),
        "7 channels": lambda: causal_conv(u[:, :, :7], weight[:7], backend="cuda"),
        "resets together with": lambda: causal_conv(
            u, weight, initial_state=torch.zeros(2, 8, 3), reset=reset, backend="cuda"
        ),
    }.items():
        with pytest.raises(UsageError, match=f"backend 'cuda' cannot do {what}.*; use backend='auto'"):
            call()


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("with_triton", [True, False])
def test_auto_on_a_gpu_goes_by_what_is_installed_and_what_the_call_needs(with_triton, monkeypatch):
    known = registry._installed
    monkeypatch.setattr(registry, "_installed", lambda name: with_triton if name == "triton" else known(name))
    other = "triton" if with_triton else "torch"
    plain = (*scan_problem().values(), None, None, ())
    packed = (*scan_problem().values(), None, reset_mask(), ())
    assert resolve("scan", GPU) == resolve("scan", GPU, "auto", plain) == "cuda"
    assert resolve("scan", GPU, "auto", packed) == other
    assert resolve("scan", torch.zeros(1)) in ("numba", "torch")
    monkeypatch.setattr(registry, "_installed", lambda name: with_triton if name == "triton" else False)
    assert {resolve(operation, GPU) for operation in ("scan", "ssd", "conv")} == {other}


@pytest.mark.usefixtures("packages")
def test_auto_takes_the_next_backend_for_a_call_that_needs_more(monkeypatch):
    monkeypatch.setitem(registry.PREFERENCE, "cpu", ("cuda", "torch"))
    tensors, reset = scan_problem(), reset_mask()
    packed = selective_scan(**tensors, reset=reset)
    assert torch.equal(packed, selective_scan(**tensors, reset=reset, backend="torch"))
    assert torch.equal(selective_scan(**tensors), selective_scan(**tensors, backend="cuda"))


@pytest.mark.usefixtures("packages")
def test_a_package_that_does_not_load_is_an_error_not_a_detour(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", None)
    monkeypatch.setitem(registry.PREFERENCE, "cpu", ("cuda", "torch"))
    with pytest.raises(UsageError, match="scan: mamba_ssm is installed but .* cannot be loaded .*; reinstall"):
        selective_scan(**scan_problem())
