"""The Triton kernels where there is no GPU: their parity in Triton's interpreter, that every one of them compiles for
GPUs which are not here, and who gets to call them."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.models.kernels import backends, causal_conv, selective_scan
from torch import Tensor

PARITY = Path(__file__).with_name("test_triton_parity.py")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
# What a program may take of a GPU of this compute capability, bytes of shared memory: the smallest one that has it.
SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_kernels_agree_with_the_definition_in_the_interpreter(root):
    command = [sys.executable, "-m", "pytest", str(PARITY), "-q", "-p", "no:cacheprovider", "-o", "timeout=900"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    summary = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", summary)
    assert passed and int(passed[1]) > 30, summary


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_kernels_are_not_offered(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not {"triton", "cuda"} & set(backends("scan"))
    x = torch.ones(1, 2, 3)
    wanted = "runs on a GPU only, the tensor is on cpu" if find_spec("triton") else "needs the package 'triton'"
    with pytest.raises(UsageError, match=f"conv: backend 'triton' {wanted}"):
        causal_conv(x, torch.ones(3, 2), backend="triton")
    with pytest.raises(UsageError, match="scan: backend 'cuda' needs the package 'mamba_ssm'"):
        selective_scan(x, x, -torch.ones(3, 4), torch.ones(1, 2, 4), torch.ones(1, 2, 4), backend="cuda")


TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.uint8: "*u8", torch.int32: "*i32"}


def compile_launch(function: Any, arguments: tuple, options: dict[str, Any], capability: int, done: dict) -> None:
    """What a launch compiles, for a GPU that is not here."""
    target = import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    settings = {name: options.pop(name) for name in ("num_warps", "enable_fp_fusion") if name in options}
    signature, constants, attributes = {}, {}, {}
    bound = inspect.signature(function.fn).bind(*arguments, **options).arguments
    for place, (name, value) in enumerate(bound.items()):
        if isinstance(value, Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[place,] = [["tt.divisibility", 16]]
        elif value is None or function.params[place].is_constexpr:
            signature[name] = "constexpr"
            constants[place,] = value
        else:
            signature[name] = "i32"
    key = (function.fn.__name__, *signature.items(), *constants.items())
    if key not in done:
        source = import_module("triton.compiler").ASTSource(function, signature, constants, attributes)
        done[key] = import_module("triton").compile(source, target=target, options=settings)


def launch_everything(dtype: torch.dtype) -> None:
    """Forward and backward of each operation, with every optional argument and without any."""
    from mplat.models.kernels.conv.conv_triton import conv_triton
    from mplat.models.kernels.scan.scan_triton import scan_triton
    from mplat.models.kernels.ssd.ssd_triton import ssd_triton

    def of(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    reset = torch.zeros(1, 64, dtype=torch.bool)
    x, A, B = of(1, 64, 64), of(64, 16), of(1, 64, 16)
    y, read = scan_triton(x, x, A, B, B, of(64), of(1, 64, 16), reset, (0, 63))
    assert read is not None
    (y.sum() + read.sum()).backward()
    scan_triton(x, x, A, B, of(1, 64, 2, 16), None, None, None, ())[0].sum().backward()
    x, A, B = of(1, 64, 2, 64), of(2), of(1, 64, 1, 128)
    y, read = ssd_triton(x, of(1, 64, 2), A, B, B, of(2), 64, of(1, 2, 64, 128), reset, (0, 63))
    assert read is not None
    (y.sum() + read.sum()).backward()
    ssd_triton(x, of(1, 64, 2), A, B, B, None, 64, None, None, ())[0].sum().backward()
    u, weight = of(1, 64, 64), of(64, 4)
    conv_triton(u, weight, of(64), of(1, 64, 3), reset).sum().backward()
    conv_triton(u, weight, None, None, None).sum().backward()


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_every_launch_compiles_for_a_gpu_that_is_not_here(capability, dtype, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    from mplat.models.kernels.ssd import ssd_triton

    compiled: dict[tuple, Any] = {}

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        compile_launch(self, arguments, options, capability, compiled)

    monkeypatch.setattr(import_module("triton.runtime.jit").JITFunction, "run", run)
    if capability < 90:
        monkeypatch.setattr(ssd_triton, "LARGEST_CHUNK", 32)
    launch_everything(dtype)
    assert {key[0] for key in compiled} == {
        "_carry", "_forward", "_backward", "local_states", "outputs", "local_adjoints", "gradients",
        "state_vector_gradients", "value_gradients",
    }  # fmt: skip
    assert all(program.asm["cubin"] for program in compiled.values())
    assert max(program.metadata.shared for program in compiled.values()) <= SHARED_MEMORY[capability]
