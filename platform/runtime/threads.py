"""How many threads a worker computes with: set explicitly, recorded, undone.

Ray sets OMP_NUM_THREADS by rounding the CPUs of an actor, and a reused process keeps the torch threads of its first
task, so the variable is no evidence. Libraries are limited where they are imported already (call `apply` again once
the worker has imported its own); for torch imported later the environment variables are set too. Nothing is imported
for this.

`restore` brings back what was found. A torch that was first imported under the limit keeps it.
"""

from __future__ import annotations

import os
import sys

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ThreadLimit:
    """A limit of `count` compute threads in this process, in force from construction to `restore`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._variables = {name: os.environ.get(name) for name in _VARIABLES}
        self._torch_before: int | None = None
        self._numba_before: int | None = None
        os.environ.update({name: str(count) for name in _VARIABLES})
        self.apply()

    def apply(self) -> int | None:
        """Limit what is imported by now; the number torch then uses, or None where torch is not imported."""
        torch = sys.modules.get("torch")
        if self._torch_before is None and torch is not None and hasattr(torch, "get_num_threads"):
            self._torch_before = int(torch.get_num_threads())  # first: numba's threads, once started, change it
        numba = sys.modules.get("numba")
        if numba is not None and hasattr(numba, "set_num_threads"):
            if self._numba_before is None:
                self._numba_before = int(numba.get_num_threads())
            # A mask, not the variable: numba refuses another NUMBA_NUM_THREADS once its threads run.
            numba.set_num_threads(min(self.count, int(numba.config.NUMBA_NUM_THREADS)))
        if torch is None or not hasattr(torch, "set_num_threads"):
            return None
        torch.set_num_threads(self.count)
        return int(torch.get_num_threads())

    def restore(self) -> None:
        """Put everything back as it was found. A second call does nothing."""
        for name, value in self._variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._variables = {}
        if self._numba_before is not None:
            sys.modules["numba"].set_num_threads(self._numba_before)
            self._numba_before = None
        if self._torch_before is not None:
            sys.modules["torch"].set_num_threads(self._torch_before)
            self._torch_before = None
