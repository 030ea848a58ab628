"""A limit of threads is undone whole, whichever library started its threads meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import numba, torch
from mplat.runtime.threads import ThreadLimit

before = torch.get_num_threads()
torch.ones(64, 64) @ torch.ones(64, 64)
limit = ThreadLimit(2)  # asks numba for its threads, which starts them, and that sets torch's
assert torch.get_num_threads() == 2
limit.restore()
print(before, torch.get_num_threads())
"""


@pytest.mark.slow
def test_a_limit_of_threads_leaves_torch_as_it_was_found() -> None:
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=where, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
