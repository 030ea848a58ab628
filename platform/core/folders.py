"""Where the cache is. Results go where `--out` says; only the cache has a place of its own, so that one run finds what
another has computed.
"""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "MPLAT_CACHE"


def cache_folder() -> Path:
    """The folder named by MPLAT_CACHE, else `mplat` in the user's cache folder. It need not exist yet."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "mplat"
