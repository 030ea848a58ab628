"""Peak memory of training steps of the 130m shape, each way in a process of its own: what the operating system saw.

The ways: all logits at once, logits in chunks, and chunks with blocks that are computed twice. Two steps each, because
the moments of AdamW are there from the second on. A step's time is the processor's.
Usage: python benchmarks/train_memory.py [--shape mamba-130m] [--rows 1] [--time 512] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

WAYS = {"whole": ("whole", False), "chunked": ("chunked", False), "chunked, blocks twice": ("chunked", True)}
SHAPES = {
    "tiny": {"arch": "mamba", "vocab_size": 1024, "d_model": 128, "n_layers": 4},
    "mamba-130m": {"arch": "mamba", "vocab_size": 50280, "d_model": 768, "n_layers": 24},
    "mamba2-130m": {
        "arch": "mamba2", "vocab_size": 50288, "d_model": 768, "n_layers": 24, "state_size": 128, "head_dim": 64,
    },
}  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "train_memory.json"


def measure(way: str, options: argparse.Namespace) -> dict[str, float]:
    """Two steps in this process: peak bytes, bytes before the model was made, and processor seconds of the second."""
    import torch
    from mplat.models import ModelConfig, build
    from mplat.train.data import Batch
    from mplat.train.loss import accumulate_gradients
    from mplat.train.precision import Precision

    torch.set_num_threads(options.threads)
    before = _peak()
    cross_entropy, recompute = WAYS[way]
    model = build(ModelConfig.from_dict(SHAPES[options.shape])).train()
    model.recompute_blocks = recompute
    optimizer = torch.optim.AdamW(model.param_groups(0.1), lr=1e-4, fused=True)
    rows, length = options.rows, options.time
    tokens = torch.randint(0, 1000, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens, torch.ones(rows, length), tokens == 0)
    seconds = 0.0
    for _ in range(2):
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        accumulate_gradients(model, batch, rows, Precision(False, "cpu", ""), cross_entropy)
        optimizer.step()
        seconds = time.process_time() - started
    return {"peak_bytes": _peak(), "before_bytes": before, "seconds": seconds, "parameters": model.n_parameters}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="mamba-130m")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--time", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process and print it")
    options = parser.parse_args()
    if options.way:
        sys.stdout.write(json.dumps(measure(options.way, options)) + "\n")
        return
    found = []
    for way in WAYS:
        done = subprocess.run([*sys.orig_argv, "--way", way], check=True, capture_output=True, text=True)
        row = {"shape": options.shape, "rows": options.rows, "time": options.time, "way": way} | json.loads(done.stdout)
        sys.stdout.write(
            f"{way}: peak {row['peak_bytes'] / 1e9:.2f} GB ({row['before_bytes'] / 1e9:.2f} GB before the model), "
            f"{row['seconds']:.2f} processor seconds a step\n"
        )
        sys.stdout.flush()
        found.append(row)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
