"""Scan, SSD and convolution on a GPU: every backend that is there, beside transformers' path and the memory's bound.

Times are those of the GPU (events around a call, after three calls that compile and warm up), in this process turn by
turn. The bound of a forward pass is the time to copy what must be read and written once; a backward pass has to read
all of that again and write the gradients, which is about twice as much. Without a GPU it says so and ends.
Usage: python benchmarks/gpu_kernels.py [--repeats 20]
"""

from __future__ import annotations

import sys
from pathlib import Path

# not the folder of this script: transformers would take its kernels.py for the package of that name
sys.path[0] = str(Path(__file__).parent / "side_by_side")

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mplat.models.kernels import backends, causal_conv, selective_scan, ssd
from timing import Results, arguments
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

# The layers of mamba-130m and mamba2-130m, a training batch and a long text.
SCANS = [(8, 1024, 1536, 16), (1, 8192, 1536, 16)]
SSDS = [(8, 1024, 24, 64, 128), (1, 8192, 24, 64, 128)]
CONVS = [(8, 1024, 1536, 4), (1, 8192, 1536, 4)]
WARM_UP = 3
Run = Callable[..., Any]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).cuda()


def seconds(call: Callable[[], object]) -> float:
    """Time of one call on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def compare(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Any]:
    """Median seconds by name, and by peer the median over turns of its time over that of the first contestant."""
    for call in contestants.values():
        for _ in range(WARM_UP):
            call()
    torch.cuda.synchronize()
    turns = [{name: seconds(call) for name, call in contestants.items()} for _ in range(repeats)]
    first, *others = contestants
    return {
        "turns": repeats,
        "seconds": {name: statistics.median(turn[name] for turn in turns) for name in contestants},
        "ratio": {name: statistics.median(turn[name] / turn[first] for turn in turns) for name in others},
    }


def forward_only(run: Run, inputs: list[Tensor]) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return run(*inputs)

    return call


def with_backward(run: Run, inputs: list[Tensor]) -> Callable[[], object]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    weights = torch.randn_like(run(*leaves))
    return lambda: torch.autograd.grad(run(*leaves), leaves, weights)


def copying(inputs: list[Tensor], out: Tensor) -> Callable[[], object]:
    """Reads and writes as many bytes as there are in the inputs and the output together."""
    half = torch.empty(sum(tensor.numel() for tensor in [*inputs, out]) // 2, device="cuda")
    sink = torch.empty_like(half)
    return lambda: sink.copy_(half)


def ours(operation: str, call: Run) -> dict[str, Run]:
    """The call by every backend that runs on a GPU, but the definition, which is not made to be fast."""

    def by(name: str) -> Run:
        return lambda *inputs: call(*inputs, backend=name)

    names = [name for name in ("triton", "cuda", "torch") if name in backends(operation, "cuda")]
    return {name: by(name) for name in names}


def measure(
    results: Results,
    repeats: int,
    operation: str,
    shape: str,
    call: Run,
    inputs: list[Tensor],
    peer: Run,
    *,
    trains: bool,
) -> None:
    """Rows for forward, and for forward and backward, after a look that all compute the same."""
    runs = ours(operation, call) | {"transformers": peer}
    expected = call(*inputs, backend="torch")
    for name, run in runs.items():
        error = float((run(*inputs) - expected).abs().max() / expected.abs().max())
        # The others may round float32 to 10 bits in their products.
        assert error < (1e-4 if name == "triton" else 1e-2), f"{operation} {shape}: {name} differs by {error}"
    calls = {name: forward_only(run, inputs) for name, run in runs.items()}
    results.add(f"{operation} forward {shape}", compare(calls | {"copy": copying(inputs, expected)}, repeats))
    if not trains:
        runs.pop("transformers")
    calls = {name: with_backward(run, inputs) for name, run in runs.items()}
    results.add(f"{operation} forward+backward {shape}", compare(calls, repeats))


def their_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    out = mamba_selective_scan(*(t.transpose(1, 2) for t in (x, delta)), A, *(t.transpose(1, 2) for t in (B, C)), D)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


def their_ssd(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    out = mamba2_chunk_scan(x, delta, A, B, C, chunk_size=256, D=D, z=None, dt_bias=None, dt_softplus=False)
    return out[0] if isinstance(out, tuple) else out


def their_conv(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    padding, time, width = weight.shape[1] - 1, u.shape[1], u.shape[2]
    out = F.conv1d(u.transpose(1, 2), weight[:, None], bias, padding=padding, groups=width)
    return out[..., :time].transpose(1, 2)


def main() -> None:
    options = arguments(__doc__, repeats=20)
    if not torch.cuda.is_available():
        sys.exit("no GPU here: torch sees none, and these kernels are measured on nothing else")
    results = Results("gpu_kernels", options)
    results.about["gpu"] = torch.cuda.get_device_name()
    for batch, time, width, size in SCANS:
        x, B, C = normal(batch, time, width), normal(batch, time, size), normal(batch, time, size)
        A = -torch.arange(1.0, size + 1, device="cuda").repeat(width, 1)
        inputs = [x, F.softplus(normal(batch, time, width) - 4), A, B, C, torch.ones(width, device="cuda")]
        shape = f"B{batch} L{time} E{width} N{size}"
        # transformers' backward of the scan is quadratic in length.
        measure(results, options.repeats, "scan", shape, selective_scan, inputs, their_scan, trains=False)
    for batch, time, heads, width, size in SSDS:
        x, B, C = normal(batch, time, heads, width), normal(batch, time, 1, size), normal(batch, time, 1, size)
        A = -1.0 - torch.arange(heads, device="cuda") / heads
        inputs = [x, F.softplus(normal(batch, time, heads) - 4), A, B, C, torch.ones(heads, device="cuda")]
        shape = f"B{batch} L{time} H{heads} P{width} N{size}"
        measure(results, options.repeats, "ssd", shape, ssd, inputs, their_ssd, trains=True)
    for batch, time, width, taps in CONVS:
        inputs = [normal(batch, time, width), normal(width, taps), normal(width)]
        shape = f"B{batch} L{time} E{width} K{taps}"
        measure(results, options.repeats, "conv", shape, causal_conv, inputs, their_conv, trains=True)
    results.write()


if __name__ == "__main__":
    main()
