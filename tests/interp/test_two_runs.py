"""Two commands at once on one cache, one model and one machine: both end, with the bytes that they have alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from interp_jobs import reader

STEPS = "activations,attribution,logit_lens"


@pytest.mark.slow
def test_two_at_once_end_as_each_does_alone(tmp_path: Path) -> None:
    model = reader("mamba2").save(tmp_path / "model")

    def begin(out: str, cache: str) -> subprocess.Popen[str]:
        words = ["interp", "--model", str(model), "--steps", STEPS, "--out", str(tmp_path / out), "--per-level", "2"]
        environment = os.environ | {"MPLAT_CACHE": str(tmp_path / cache)}
        command = [sys.executable, "-m", "mplat", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    both = [begin("one", "shared"), begin("two", "shared")]
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    alone = begin("alone", "own")
    assert alone.communicate(timeout=300) and alone.returncode == 0

    def tables(out: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((tmp_path / out).rglob("*.parquet"))}

    assert tables("one") == tables("two") == tables("alone") and len(tables("alone")) >= 3
