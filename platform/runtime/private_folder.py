"""The folder of a private Ray: closed to others, short enough for sockets, and swept by the next run where its owner
was killed.

A lock on a file in it, which the kernel drops however its holder dies, says whether the owner lives. What lies beside
it in a folder of that name is not touched without.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX, _OWNER = "mplat-", "owner"
_LONGEST_TEMP = 38  # sockets must have paths below 107 bytes, and Ray adds about 65


class PrivateFolder:
    """A new folder in the one for temporary files, until `remove`."""

    def __init__(self) -> None:
        base = _base()
        sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        self._lock = _locked(self.path / _OWNER, os.O_CREAT | os.O_EXCL)
        # Ray opens its folder to everybody, which means nobody in one that is closed.
        self.for_ray = self.path / "r"

    def remove(self) -> None:
        """End what was started for the folder, and delete it. A second call does nothing."""
        if self._lock is not None:
            _remove(self.path)
            os.close(self._lock)
            self._lock = None


def sweep(base: Path) -> list[Path]:
    """End and delete in `base` what this user's killed drivers have left; the folders."""
    left = [path for path in base.glob(f"{_PREFIX}????????") if _is_mine(path) and (path / _OWNER).is_file()]
    gone = []
    for path in left:
        with contextlib.suppress(OSError):  # another run sweeps too
            descriptor = _locked(path / _OWNER, 0)
            if descriptor is not None:
                _remove(path)
                os.close(descriptor)
                gone.append(path)
    return gone


def end_processes_of(folder: Path) -> None:
    """Kill what was started for `folder`, a name no other session has.

    Ray forgets the processes of a start that failed, and its agents outlive their parent by half a minute as children
    of nobody; so this looks at all processes.
    """
    import psutil  # Ray brings it

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(str(folder) in argument for argument in process.cmdline()):
                process.kill()
                process.wait(5.0)


def _base() -> Path:
    """That for temporary files, whatever TMPDIR says if its name is too long."""
    base = tempfile.gettempdir()
    return Path(base if len(os.fsencode(base)) <= _LONGEST_TEMP - len("/mplat-12345678") else "/tmp")


def _is_mine(path: Path) -> bool:
    with contextlib.suppress(OSError):
        found = path.lstat()
        return found.st_uid == os.getuid() and path.is_dir() and not path.is_symlink()
    return False


def _locked(path: Path, more: int) -> int | None:
    """The open file with its lock, or None where somebody has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | more, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(folder: Path) -> None:
    end_processes_of(folder)
    shutil.rmtree(folder, ignore_errors=True)  # a leftover folder of logs is no reason to fail
