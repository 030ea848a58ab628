"""Writes checkpoints while the training goes on.

A thread writes, syncs and renames what `Snapshot.take` copied; the loop waits only where the checkpoint before is not
written yet. What goes wrong there, such as a full disk, is raised in the loop at the next call.
"""

from __future__ import annotations

from collections.abc import Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from .checkpoint import Snapshot, prune


class CheckpointWriter:
    """Of the checkpoints in `folder`; a context manager that ends with everything written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None

    def write(self, snapshot: Snapshot | None, keep_latest_k: int, keep: Set[int]) -> None:
        """Begin to write, once the one before is written; then drop the oldest as `checkpoint.prune` does."""
        self.wait()
        self._pending = self._executor.submit(self._write, snapshot, keep_latest_k, set(keep))

    def check(self) -> None:
        """Raise what went wrong since the last call, without waiting."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until everything is written; raises what went wrong."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, snapshot: Snapshot | None, keep_latest_k: int, keep: set[int]) -> None:
        if snapshot is not None:
            snapshot.write(self._folder)
        prune(self._folder, keep_latest_k, keep)

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True)
        if error is None:
            self.wait()
