"""What stays inside a folder, whoever made it: names that a record says, and files that are opened to be written.

A folder from elsewhere may hold a record that names `../other`, and links where a run writes its own files. A name is
taken only where it leads to a place inside; a file is opened for writing only where it is itself, no link to another.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TypeGuard

from .errors import UsageError


def leads_down(name: object, *, deep: bool = False) -> TypeGuard[str]:
    """Whether `name` is the name of a file in a folder, or with `deep` of one below it: no absolute path, no `..`."""
    if not isinstance(name, str) or "\0" in name or "\\" in name or len(name) > 4096:
        return False
    parts = name.split("/") if deep else [name]
    return not any(p in ("", ".", "..") or "/" in p or len(p.encode("utf-8", "replace")) > 255 for p in parts)


def leads_out(path: Path, folder: Path) -> bool:
    """Whether `path`, which lies in `folder`, is or is behind a symbolic link to a place that does not."""
    try:
        return not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that go round in circles
        return True


def open_itself(path: Path, flags: int) -> int:
    """A descriptor of the file `path`, made where it is not there and `flags` say so. Raises UsageError where it is a
    symbolic link or no plain file: what is written there would go elsewhere."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe that nobody reads
            what = "a symbolic link" if error.errno == errno.ELOOP else "no plain file"
            raise UsageError(f"{path}: is {what}, which nothing is written to; remove it") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path}: is no plain file, and nothing is written to it; remove it")
    return descriptor
