"""The steps on a pretended GPU find what they find on the CPU by the same kernels.

Continuous integration runs those that bring together tensors of their own making in different ways; MPLAT_STEPS=all
runs every one (some minutes for each architecture, MPLAT_ARCHITECTURES=a,b).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interp_jobs import asked, reader
from mplat.interp import Cache, StepResult, config_model, run_steps
from mplat.interp.engine.graph import all_steps
from mplat.models.kernels import backend
from pretended_gpu import pretended_gpu

SMALL = {name: dict(step.settings.small) for name, step in all_steps().items()}
# Trained rotations, matrices as sums of parts, edges with gradients, dictionaries, states along a text.
USUAL = ("interchange", "spd", "circuits", "sparse_probing", "memory_recursion")
CHOSEN = [name for name in all_steps() if os.environ.get("MPLAT_STEPS") == "all" or name in USUAL]
ARCHITECTURES = os.environ.get("MPLAT_ARCHITECTURES", "mamba").split(",")


def found(name: str, arch: str, device: str, place: Path) -> dict[str, StepResult]:
    model, another = (reader(arch, seed=seed, dtype=torch.float64).to(device) for seed in (0, 1))
    others = {"others": [another]} if all_steps()[name].others else {}
    config = config_model().model_validate({"batch_size": 4, "limit": 4, **SMALL, "steps": (name,)})
    return run_steps(model, asked(), config, cache=Cache(place), **others)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", CHOSEN)
def test_a_step_finds_on_a_gpu_what_it_finds_on_the_cpu(
    name: str, arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backend.PREFERENCE, "cpu", ("torch",))
    expected = found(name, arch, "cpu", tmp_path)
    with pretended_gpu(monkeypatch):
        results = found(name, arch, "cuda", tmp_path)
    assert results.keys() == expected.keys()
    for step, result in results.items():
        assert result.key != expected[step].key, "one kind of device never reads what another has computed"
        assert result.tables.keys() == expected[step].tables.keys()
        for part, table in result.tables.items():
            rows = zip(table.to_pylist(), expected[step].tables[part].to_pylist(), strict=True)
            differ = [(key, a[key], b[key]) for a, b in rows for key in b if not close(a[key], b[key])]
            assert [one for one in differ if one[2] != "cpu"] == [], (step, part)


def close(a: Any, b: Any) -> bool:
    """Equal but for the last bits, which the order of the numbers in memory decides."""
    if isinstance(a, bytes) and isinstance(b, bytes):  # a vector
        a, b = (np.frombuffer(one, "<f4").tolist() for one in (a, b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-5) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)
