"""What tracing takes beside the model stays within its budget, measured by the system's own count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BUDGET = 64 * 2**20
#: a process that prints the peaks of two traces, in bytes above what it held before: within BUDGET, and within 16 of it
PROGRAM = f"""
import sys
from pathlib import Path
import torch
from mplat.interp.tracing import causal_trace
from mplat.models import ModelConfig, build

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

config = ModelConfig("mamba2", vocab_size=20000, d_model=384, n_layers=6, state_size=64, head_dim=32)
model = build(config, seed=0).eval()
tokens = torch.randint(0, 20000, (8,), generator=torch.Generator().manual_seed(0))
options = dict(subject=(0, 2), positions=[0], sites=["h_post", "h", "delta"])
causal_trace(model, tokens[:4], samples=2, memory_budget={BUDGET}, **options)  # what is made once is no part of it
for budget in ({BUDGET}, {16 * BUDGET}):
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    causal_trace(model, tokens, samples=30, memory_budget=budget, **options)
    sys.stdout.write(str(memory("VmHWM") - before) + "\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's count of a process's memory")
def test_the_peak_stays_within_the_budget() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    assert small <= BUDGET
    assert large > BUDGET, "this model is too small for the budget to be felt"
    assert large <= 16 * BUDGET
