"""One driver per folder: a lock that says who holds it and that the dead cannot keep.

The lock is an advisory `flock`, which the kernel drops when its holder dies, however it died; the file's text (pid,
host, since) is there for the message and for holders on other hosts, which this kernel knows nothing about. On mounts
without `flock` the text alone decides; two drivers that start in the same instant are then not kept apart. The holder
deletes the file before it lets go; who has opened it by then sees that its name is gone and opens it anew, so that two
holders never lock an inode each.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UsageError
from .inside import open_itself
from .json_files import strict
from .whole_files import write_errors

_NO_FLOCK = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}


class LockedError(UsageError):
    """Another driver holds the folder: `by`, and what to do where it is gone and cannot be asked."""

    def __init__(self, message: str, by: str) -> None:
        super().__init__(message)
        self.by = by


@contextmanager
def alone_in(out: Path, name: str = "") -> Generator[None]:
    """Hold the lock of the run folder `out`, made where it is not there, or of the run `name` in it.

    Raises UsageError where another driver holds it, saying which, and where nothing can be written there.
    """
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(out / (f".{name}.lock" if name else ".lock"))
    try:
        yield
    finally:
        lock.release()


class FolderLock:
    """Held from construction to `release`; raises LockedError where another driver holds it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        while True:
            self._descriptor = open_itself(self.path, os.O_RDWR | os.O_CREAT)
            held_here = self._flock()
            if held_here != "flock" or self._has_its_name():
                break
            os.close(self._descriptor)
        try:
            holder = self._holder()
            if not held_here or (holder and not self._is_gone(holder, flock_is_ours=held_here == "flock")):
                raise self._error(holder)
            self._write(
                {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
            )
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let others in. A second call does nothing."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)  # drops the flock
            self._descriptor = -1

    def _flock(self) -> str:
        """How exclusion was obtained: "flock", "text only" where the mount has no flock, or "" where another has it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return "text only"
            raise
        return "flock"

    def _has_its_name(self) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def _is_gone(self, holder: dict[str, Any], *, flock_is_ours: bool) -> bool:
        if holder.get("host") != socket.gethostname():
            return False
        if flock_is_ours:
            return True  # a live holder on this host would still have the flock
        try:
            os.kill(int(holder["pid"]), 0)
        except ProcessLookupError:
            return True
        except (PermissionError, ValueError, TypeError, OverflowError):  # another user's, or no number of a process
            return False
        return False

    def _holder(self) -> dict[str, Any]:
        text = os.pread(self._descriptor, 4096, 0).decode("utf-8", "replace")
        try:
            holder = strict(text)
        except ValueError:  # empty, or its writer died while writing it
            return {}
        return holder if isinstance(holder, dict) and "pid" in holder else {}

    def _write(self, holder: dict[str, Any]) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)
        os.fsync(self._descriptor)

    def _error(self, holder: dict[str, Any]) -> LockedError:
        if not holder:
            by = "a run that is just starting"
            return LockedError(f"{self.path.parent} is locked by {by}; wait for it or use another --out", by)
        by = f"pid {holder.get('pid')} on host {holder.get('host')} since {holder.get('since')}"
        if holder.get("host") != socket.gethostname():
            gone = f"if that run is gone, delete {self.path}"
            return LockedError(f"{self.path.parent} is locked by {by}; {gone}, or use another --out", f"{by}; {gone}")
        return LockedError(f"{self.path.parent} is locked by {by}; wait for it, end it, or use another --out", by)
