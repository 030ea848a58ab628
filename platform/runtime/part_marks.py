"""What the file of a part says of itself: its name has index and digest, its footer the plan and the shard."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.inside import leads_out

PART = re.compile(r"part-(\d{5,})-([0-9a-f]{16})\.parquet")
PLAN, SHARD = b"mplat.plan", b"mplat.shard"


def plans_in(folder: Path) -> set[str]:
    """The digests of the plans that the parts in `folder` say they are of; a part that cannot be read says nothing."""
    found = set[str]()
    for path in folder.iterdir():
        if PART.fullmatch(path.name) and path.is_file() and not leads_out(path, folder):
            try:
                marks = pq.read_schema(path).metadata or {}
            except (pa.ArrowException, OSError, ValueError):
                continue
            found.add(marks.get(PLAN, b"").decode("utf-8", "replace"))
    return found
