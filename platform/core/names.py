"""One thing under several spellings: `moe`, `MoE-Mamba` and `moemamba` are all `moe_mamba`.

For names that people say in many ways (architectures, steering variants). A name stands for the known one with the same
letters and digits, else for the only known one that has it as a word. Whether an unknown name is refused, and with
which suggestion, is for the caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def known_as(name: object, valid: Iterable[str]) -> str | None:
    """The one of `valid` that `name` stands for; None where there is none, or several."""
    names = list(valid)
    if not isinstance(name, str) or name in names:
        return name if isinstance(name, str) else None
    same = [other for other in names if _bare(other) == _bare(name) != ""]
    if not same:
        same = sorted((other for other in names if name.strip().lower() in _words(other)), key=len)
    # one that the others only add words to is meant
    return same[0] if same and all(other.startswith(same[0]) for other in same) else None


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())
