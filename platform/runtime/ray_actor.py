"""The Ray actor that is a worker's home: it checks that it is the same mplat, sets its threads, and runs payloads.

Nothing it does may raise through Ray: exceptions of a worker can be unpicklable, so they travel as plain dictionaries,
and what still arrives as a Ray error is a dead process. The class is decorated where it is used, because this module is
imported by nodes before they know whether they have the right mplat.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import metadata
from typing import Any


class ShardActor:
    """Made by `ray_pool`; one per worker process."""

    def __init__(self, target: str, kwargs: dict[str, Any], threads: int, version: str) -> None:
        """Build the worker. A failure is kept for `describe`, so that it is said once and in one sentence."""
        self.failure: dict[str, str] | None = None
        self.torch_threads: int | None = None
        try:
            there = installed_version()
            if there != version:
                raise RuntimeError(f"mplat is {there} there and {version} here; install the same on every node")
            os.environ["NUMBA_NUM_THREADS"] = str(threads)  # this process is ours alone and numba is not loaded yet
            from .pool import WorkerFactory
            from .threads import ThreadLimit

            self.threads = ThreadLimit(threads)
            self.worker = WorkerFactory(target, kwargs).build()
            self.torch_threads = self.threads.apply()
        except Exception as error:  # `describe` says it
            self.failure = failure_of(error)

    def describe(self) -> dict[str, Any]:
        """Who this actor is, or why it could not be made."""
        import ray

        return {
            "failure": self.failure,
            "node": ray.get_runtime_context().get_node_id(),
            "pid": os.getpid(),
            "torch_threads": self.torch_threads,
        }

    def run(self, payload: dict[str, Any]) -> Any:
        """The worker's table, or a dictionary that says what it raised."""
        try:
            return self.worker.run(payload)
        except Exception as error:  # the driver's scheduler judges it
            return failure_of(error)
        finally:
            self.threads.apply()  # the worker may have imported torch only now


def installed_version() -> str:
    """The version of mplat that this process imports. A checkout run by its cli.py beside an installed mplat with
    other sources names itself, because workers import the installed one."""
    try:
        version = metadata.version("mplat")
    except metadata.PackageNotFoundError:
        return "not installed"
    checkout = getattr(sys.modules.get("mplat"), "checkout", None)
    return version if checkout is None else f"the checkout {checkout}"


def failure_of(error: Exception) -> dict[str, str]:
    """An exception as data."""
    return {"kind": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
