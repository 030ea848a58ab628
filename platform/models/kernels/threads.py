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


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """The threads of this process; the process is part of the key because threads do not survive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix="mplat-kernel")


def run_tasks(loop: Callable[..., object], tasks: int, *arguments: object) -> None:
    """Call loop(first, last, *arguments) for ranges that cover 0..tasks-1, one range per thread, and wait for all of
    them."""
    threads = min(torch.get_num_threads(), tasks)
    if threads == 1:
        loop(0, tasks, *arguments)
        return
    edges = [tasks * i // threads for i in range(threads + 1)]
    pool = _pool(os.getpid(), threads - 1)
    pending = [pool.submit(loop, *edges[i : i + 2], *arguments) for i in range(1, threads)]
    try:
        loop(edges[0], edges[1], *arguments)
    finally:
        # Also when the first range failed: the others write into memory that must stay alive until they are done.
        wait(pending)
    for future in pending:
        future.result()
