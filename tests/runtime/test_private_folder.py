"""The folder of a private Ray: nobody else's, and swept by the next run where its owner was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from mplat.runtime.private_folder import PrivateFolder, sweep

OWNER = """
import subprocess, sys, tempfile
tempfile.tempdir = sys.argv[1]
from mplat.runtime.private_folder import PrivateFolder
folder = PrivateFolder()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", str(folder.for_ray)])
print(folder.path, child.pid, flush=True)
sys.stdin.read()
"""


@contextmanager
def owner(base: Path) -> Iterator[tuple[subprocess.Popen[str], Path, psutil.Process]]:
    """A process with a folder and a child that works for it."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", OWNER, str(base)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        folder, pid = process.stdout.readline().split()
        child = psutil.Process(int(pid))
        try:
            yield process, Path(folder), child
        finally:
            process.kill()
            if child.is_running():
                child.kill()


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:  # a short name, as it has to be
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


def test_f6_what_a_killed_owner_left_is_swept_and_nothing_else(base: Path) -> None:
    strange = base / "mplat-abcdefgh"  # somebody else's, who knows nothing of a lock
    strange.mkdir()
    (base / "mplat-linklink").symlink_to(strange)
    with owner(base) as (killed, left, child), owner(base) as (_, lives, busy):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert child.is_running() and left.is_dir(), "nobody has swept yet"
        mine = PrivateFolder()
        try:
            assert not left.exists() and (not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
            assert lives.is_dir() and busy.is_running() and strange.is_dir()
            assert mine.path.parent == base and mine.path.stat().st_mode & 0o777 == 0o700
            assert sweep(base) == []
        finally:
            mine.remove()
        assert not mine.path.exists()
        mine.remove()


def test_f33_a_long_folder_for_temporary_files_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 30)))
    folder = PrivateFolder()
    folder.remove()
    assert folder.path.parent == Path("/tmp")
