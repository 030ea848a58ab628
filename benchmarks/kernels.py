"""Scan, SSD and convolution, forward and with backward, beside the paths of transformers and mambapy.

Peers get the same numbers. The bound of a forward pass is the time to copy what must be read and written once.
Usage: python benchmarks/kernels.py [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import sys
from pathlib import Path

# not the folder of this script: transformers would take its kernels.py for the package of that name
sys.path[0] = str(Path(__file__).parent / "side_by_side")

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mambapy.pscan import pscan
from mplat.models.kernels import causal_conv, selective_scan, ssd
from timing import Results, arguments, compare
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

SCANS = [(1, 512, 1536, 16), (8, 256, 256, 16)]
SSDS = [(1, 512, 24, 64, 128), (8, 256, 8, 32, 64)]
CONVS = [(8, 256, 256, 4), (1, 512, 1536, 4)]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def with_backward(run: Callable[..., Any], inputs: list[Tensor]) -> Callable[[], object]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    return lambda: torch.autograd.grad(run(*leaves).sum(), leaves)


def forward_only(run: Callable[..., Any], inputs: list[Tensor]) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return run(*inputs)

    return call


def agree(ours: Any, theirs: Tensor) -> None:
    """A benchmark of two different things is none."""
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    assert error < 1e-4, f"results differ by {error}"


def copying(tensors: list[Tensor], out: Tensor) -> Callable[[], object]:
    """Reads every input and writes the output once."""
    sink = torch.empty(sum(t.numel() for t in tensors) + out.numel())
    flat = torch.cat([t.reshape(-1) for t in [*tensors, out]])
    return lambda: sink.copy_(flat)


def theirs_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    out = mamba_selective_scan(*(t.transpose(1, 2) for t in (x, delta)), A, *(t.transpose(1, 2) for t in (B, C)), D)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


def mambapy_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    decay = torch.exp(delta[..., None] * A)
    states = pscan(decay, delta[..., None] * B[:, :, None] * x[..., None])
    return (states @ C[..., None]).squeeze(3) + D * x


def scans(results: Results, repeats: int) -> None:
    for batch, time, width, size in SCANS:
        x, B, C = normal(batch, time, width), normal(batch, time, size), normal(batch, time, size)
        delta = F.softplus(normal(batch, time, width) - 4)
        A, D = -torch.arange(1.0, size + 1).expand(width, -1).contiguous(), torch.ones(width)
        inputs = [x, delta, A, B, C, D]
        agree(selective_scan(*inputs), theirs_scan(*inputs))
        agree(selective_scan(*inputs), mambapy_scan(*inputs))
        shape = f"B{batch} L{time} E{width} N{size}"
        runs = {"mplat": selective_scan, "torch backend": lambda *a: selective_scan(*a, backend="torch")}
        runs |= {"transformers": theirs_scan, "mambapy": mambapy_scan}
        calls = {name: forward_only(run, inputs) for name, run in runs.items()}
        calls["copy"] = copying(inputs, x)
        results.add(f"scan forward {shape}", compare(calls, repeats))
        # transformers' backward is quadratic in length: minutes for one call of these shapes
        runs.pop("transformers")
        calls = {name: with_backward(run, inputs) for name, run in runs.items()}
        results.add(f"scan forward+backward {shape}", compare(calls, repeats))


def theirs_ssd(x: Tensor, *others: Tensor, chunk: int = 256) -> Tensor:
    delta, A, B, C, D = others
    out = mamba2_chunk_scan(x, delta, A, B, C, chunk_size=chunk, D=D, z=None, dt_bias=None, dt_softplus=False)
    return out[0] if isinstance(out, tuple) else out


def ssds(results: Results, repeats: int) -> None:
    for batch, time, heads, width, size in SSDS:
        x, B, C = normal(batch, time, heads, width), normal(batch, time, 1, size), normal(batch, time, 1, size)
        inputs = [x, F.softplus(normal(batch, time, heads) - 4), -1.0 - torch.rand(heads), B, C, torch.ones(heads)]
        agree(ssd(*inputs), theirs_ssd(x, *inputs[1:]))
        shape = f"B{batch} L{time} H{heads} P{width} N{size}"
        runs = {"mplat": ssd, "torch backend": lambda *a: ssd(*a, backend="torch"), "transformers": theirs_ssd}
        runs["transformers, chunk 32"] = lambda *a: theirs_ssd(*a, chunk=32)
        results.add(f"ssd forward {shape}", compare({k: forward_only(run, inputs) for k, run in runs.items()}, repeats))
        calls = {name: with_backward(run, inputs) for name, run in runs.items()}
        results.add(f"ssd forward+backward {shape}", compare(calls, repeats))


def convs(results: Results, repeats: int) -> None:
    for batch, time, width, taps in CONVS:
        inputs = [normal(batch, time, width), normal(width, taps), normal(width)]

        def theirs(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            padding, time, width = weight.shape[1] - 1, u.shape[1], u.shape[2]
            out = F.conv1d(u.transpose(1, 2), weight[:, None], bias, padding=padding, groups=width)
            return out[..., :time].transpose(1, 2)

        agree(causal_conv(inputs[0], *inputs[1:]), theirs(*inputs))
        runs = {"mplat": causal_conv, "torch backend": lambda *a: causal_conv(*a, backend="torch")}
        runs["F.conv1d, as transformers"] = theirs
        shape = f"B{batch} L{time} E{width} K{taps}"
        results.add(f"conv forward {shape}", compare({k: forward_only(r, inputs) for k, r in runs.items()}, repeats))
        calls = {name: with_backward(run, inputs) for name, run in runs.items()}
        results.add(f"conv forward+backward {shape}", compare(calls, repeats))


def main() -> None:
    options = arguments(__doc__, repeats=5)
    results = Results("kernels", options)
    for measure in (scans, ssds, convs):
        measure(results, options.repeats)
    results.write()


if __name__ == "__main__":
    main()
