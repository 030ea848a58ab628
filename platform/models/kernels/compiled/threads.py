"""Running a compiled loop over a range of tasks on as many threads as torch uses.

The loops release the interpreter lock, so plain Python threads run them side by side. Unlike numba's own threads these
may be used from several threads at once and after a fork. Promises: every task runs exactly once, an exception reaches
the caller, and with one thread nothing is started. What a task computes must not depend on the split; that is up to the
loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch

# Measured: with 4 a range takes a tenth to a half of a millisecond, many times what a call costs.
RANGES_PER_THREAD = 4


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """The threads of this process; the process is part of the key because threads do not survive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix="mplat-kernel")


def run_tasks(loop: Callable[..., object], tasks: int, *arguments: object) -> None:
    """Call loop(first, last, *arguments) for ranges that cover 0..tasks-1 and wait for all of them.

    Threads take small ranges one after the other: after a matrix product torch's own threads spin for milliseconds and
    hold a core, and the thread that has to share it must not be waited for.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads == 1:
        loop(0, tasks, *arguments)
        return
    ranges = min(tasks, threads * RANGES_PER_THREAD)
    edges = [tasks * i // ranges for i in range(ranges + 1)]
    left = iter(range(ranges))  # next() on it is atomic: it never leaves the interpreter

    def work() -> None:
        for i in left:
            loop(edges[i], edges[i + 1], *arguments)

    pool = _pool(os.getpid(), threads - 1)
    pending = [pool.submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        # Also when one range failed: the others write into memory that must stay alive until they are done. A thread
        # that has not started yet finds nothing left to do and need not be waited for.
        wait([future for future in pending if not future.cancel()])
    for future in pending:
        if not future.cancelled():
            future.result()
