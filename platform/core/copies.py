"""Where this process finds what was named on another machine: on a node of a cluster, the copies that were sent there.

Names stay what they are in arguments, keys and records; whoever opens a file asks `placed` at the last moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_COPIES: dict[str, str] = {}


def use_copies(copies: Mapping[str, str]) -> None:
    """From now on `placed` knows these and no others: name of a file or folder -> path of its copy."""
    _COPIES.clear()
    _COPIES.update(copies)


def placed(name: str) -> str:
    """`name` with the copy in place of everything that was copied, be it the whole or what stands between colons."""
    if not _COPIES:
        return name
    known = "|".join(map(re.escape, sorted(_COPIES, key=len, reverse=True)))
    return re.sub(rf"(?:^|(?<=:))(?:{known})(?=$|:)", lambda found: _COPIES[found[0]], name)
