"""The Ray actor that is a worker's home: it checks that it is the same mplat, sets its threads, and runs payloads.

It may be given another worker when the work of the first is done: what is imported and loaded by then stays.

Nothing it does may raise through Ray: exceptions of a worker can be unpicklable, so they travel as plain dictionaries,
and what still arrives as a Ray error is a dead process. The class is decorated where it is used, because this module is
imported by nodes before they know whether they have the right mplat.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Mapping
from typing import Any


class ShardActor:
    """Made by `ray_pool`; one per worker process."""

    def __init__(self, threads: int, here: Mapping[str, str], gpus: float = 0) -> None:
        """`here`: the driver's `installation`. A failure is kept for `build`, so that it is said once and in one
        sentence."""
        self.failure: dict[str, str] | None = None
        try:
            from .installation import GPU, difference, installation

            if (other := difference(installation(gpu=GPU in here), here)) is not None:
                raise RuntimeError(f"on node {socket.gethostname()} {other}")
            if not gpus:  # a cluster whose Ray hides nothing shows it those of others; torch is not imported yet
                os.environ["CUDA_VISIBLE_DEVICES"] = ""
            os.environ["NUMBA_NUM_THREADS"] = str(threads)  # this process is ours alone and numba is not loaded yet
            from .threads import ThreadLimit

            self.threads = ThreadLimit(threads)
            if GPU in here and 0 < gpus < 1:  # Ray only counts shares
                import torch

                torch.cuda.set_per_process_memory_fraction(gpus)
        except Exception as error:  # `build` says it
            self.failure = failure_of(error)

    def build(
        self, target: str, kwargs: dict[str, Any], copies: Mapping[str, Mapping[str, str]] | None = None
    ) -> dict[str, Any]:
        """Make the worker in place of the one before. Who this actor is, or why it could not be made.

        copies: of every node that lacks nothing, the paths of what was sent there. lacks: this one does, so that no
        worker was made."""
        import ray

        from .pool import WorkerFactory

        failure, torch_threads = self.failure, None
        node = ray.get_runtime_context().get_node_id()
        lacks = copies is not None and not all(map(os.path.exists, copies.get(node, {"": ""}).values()))
        try:
            if failure is None and not lacks:
                from ..core.copies import use_copies

                use_copies((copies or {}).get(node, {}))
                self.worker = None  # before the next is there: two would need twice the memory
                self.worker = WorkerFactory(target, kwargs).build()
                torch_threads = self.threads.apply()
        except Exception as error:
            failure = failure_of(error)
        return {
            "failure": failure,
            "node": node,
            "lacks": lacks,
            "pid": os.getpid(),
            "gpus": ray.get_gpu_ids(),
            "torch_threads": torch_threads,
        }

    def run(self, payload: dict[str, Any]) -> Any:
        """The worker's table, or a dictionary that says what it raised."""
        try:
            assert self.worker is not None
            return self.worker.run(payload)
        except Exception as error:  # the driver's scheduler judges it
            return failure_of(error)
        finally:
            self.threads.apply()  # the worker may have imported torch only now


def failure_of(error: Exception) -> dict[str, str]:
    """An exception as data."""
    return {"kind": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
