"""Python's collector of reference cycles, off for a while."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Generator[None]:
    """No collection inside the block, for what makes very many objects and no garbage, such as imports and syntax
    trees: the collector would look through all of them again and again, which is a fifth of the time of a start."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
