"""What a command writes depends on its arguments: not on the locale, the time zone or the seed of Python's hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mplat.commands import main

ELSEWHERE = {"LC_ALL": "de_DE.UTF-8", "TZ": "America/St_Johns", "PYTHONHASHSEED": "4294967295"}


def test_i18_locale_time_zone_and_hash_seed_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the largest seed there is, here and in another process: what is said, and the table that is written."""
    here, there = tmp_path / "here", tmp_path / "there"
    words = ["prompts", "--per-level", "20", "--seed", str(2**63 - 1), "--distances", "0,50", "--out", "q.parquet"]
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    assert main(words) == 0
    command = [sys.executable, "-m", "mplat", *words]
    said = subprocess.check_output(command, cwd=there, env={**os.environ, **ELSEWHERE}, text=True, encoding="utf-8")
    assert said == capfd.readouterr().out and "120 questions" in said
    assert (here / "q.parquet").read_bytes() == (there / "q.parquet").read_bytes()


@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_i18_a_seed_below_zero_or_too_large_is_refused(seed: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "--seed", seed]) == 2
    assert "a seed is a whole number from 0 to" in capfd.readouterr().err
