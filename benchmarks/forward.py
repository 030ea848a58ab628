"""A forward pass of whole models beside transformers' with the same weights; the bound: its matrix products alone.

Also the peak memory of a long forward pass. Usage: python benchmarks/forward.py [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import sys
from pathlib import Path

# not the folder of this script: transformers would take its kernels.py for the package of that name
sys.path[0] = str(Path(__file__).parent / "side_by_side")

import subprocess

import torch
from mplat.models import build
from peers import SHAPES, logits_of, pair, products, tokens_of
from timing import Results, Run, arguments, compare

ROWS = [("mamba-130m", 1, 512), ("mamba2-130m", 1, 512), ("tiny mamba", 8, 256), ("tiny mamba2", 8, 256)]
LONG = 2048
PEAK = "--peak-of"
BFLOAT16 = bool(torch.cpu.get_capabilities().get("amx_bf16"))


def peak(shape: str) -> int:
    """Bytes that a forward pass over `LONG` tokens adds to a process that holds the weights."""
    command = [sys.executable, __file__, PEAK, shape]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(shape: str) -> None:
    model = build(SHAPES[shape], seed=0).eval()
    tokens = tokens_of(shape, 1, LONG)
    with torch.inference_mode():
        model(tokens[:, :8])  # what is made once, such as compiled code, is no part of a pass
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
        model(tokens)
    sys.stdout.write(f"{_memory('VmHWM') - before}\n")


def _memory(key: str) -> int:
    """Bytes by the kernel's own count (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure(results: Results, shape: str, batch: int, time: int) -> None:
    ours, theirs = pair(shape)
    tokens = tokens_of(shape, batch, time)

    with torch.inference_mode():
        expected = logits_of(theirs, tokens)
        error = float((logits_of(ours, tokens) - expected).abs().max() / expected.abs().max())
        assert error < 1e-4, f"{shape}: the models differ by {error}"
        calls: dict[str, Run] = {"mplat": lambda: ours(tokens), "transformers": lambda: theirs(tokens)}
        calls["matrix products"] = products(ours, batch, time)
        if BFLOAT16:
            half = build(SHAPES[shape], seed=0, dtype=torch.bfloat16).eval()
            calls["mplat bfloat16"] = lambda: half(tokens)
        measured = compare(calls, results.repeats)
    ratio = measured["ratio"]
    more = {"tokens_per_second": batch * time / measured["seconds"]["mplat"], "relative_difference": error}
    more["over_matrix_products"] = 1 / ratio["matrix products"]
    if BFLOAT16:
        more["bfloat16_against_transformers"] = ratio["transformers"] / ratio["mplat bfloat16"]
    if shape.endswith("130m"):
        more["peak_bytes_2048_tokens"] = peak(shape)
    results.add(f"forward {shape} {batch} x {time}", measured, **more)


def main() -> None:
    results = Results("forward", arguments(__doc__, repeats=5))
    for row in ROWS:
        measure(results, *row)
    results.write()


if __name__ == "__main__":
    if sys.argv[1:2] == [PEAK]:
        print_peak(sys.argv[2])
    else:
        main()
