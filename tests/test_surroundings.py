"""What a command writes depends on its arguments: not on the locale, the time zone or the seed of Python's hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SURROUNDINGS = [
    {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "0"},
    {"LC_ALL": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8", "TZ": "Asia/Kolkata", "PYTHONHASHSEED": "1"},
    {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "America/St_Johns", "PYTHONHASHSEED": "4294967295"},
]


def mplat(folder: Path, surroundings: dict[str, str], *words: str) -> subprocess.CompletedProcess[bytes]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, **surroundings}
    return subprocess.run([sys.executable, "-m", "mplat", *words], cwd=folder, env=environment, capture_output=True)


def test_i18_locale_time_zone_and_hash_seed_change_no_byte(tmp_path: Path) -> None:
    """A largest seed, a table with its fractions and thousands, and the file of it."""
    found = set()
    for number, surroundings in enumerate(SURROUNDINGS):
        folder = tmp_path / str(number)
        words = ("prompts", "--per-level", "40", "--seed", str(2**63 - 1), "--distances", "0,50", "--out", "q.parquet")
        done = mplat(folder, surroundings, *words)
        assert done.returncode == 0, done.stderr
        found.add((done.stdout, (folder / "q.parquet").read_bytes()))
    assert len(found) == 1


def test_i18_a_seed_below_zero_or_too_large_is_refused(tmp_path: Path) -> None:
    for seed in ("-1", str(2**63)):
        done = mplat(tmp_path, {}, "prompts", "--seed", seed)
        assert done.returncode == 2 and b"a seed is a whole number from 0 to" in done.stderr, done.stderr
