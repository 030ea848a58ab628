"""What stays inside a folder, whoever made it: names that a record says, and files that are opened to be written.

A folder from elsewhere may hold a record that names `../other`, and links where a run writes its own files. A name is
taken only where it leads to a place inside; a file is opened for writing only where it is itself, no link to another.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from .errors import UsageError


def below(folder: Path, name: object) -> Path | None:
    """`folder`/`name`, or None where `name` is no relative path downwards, or a link on the way leads out of `folder`.

    There need be no such file.
    """
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name or len(name) > 4096:
        return None
    if any(part in ("", ".", "..") or len(part.encode("utf-8", "replace")) > 255 for part in name.split("/")):
        return None
    path = folder / name
    try:
        real = path.resolve()  # strict=False: links that go round in circles are left as they are
    except (OSError, RuntimeError):
        return None
    return path if real.is_relative_to(folder.resolve()) else None


def beside(folder: Path, name: object) -> Path | None:
    """As `below`, of a file that lies in `folder` itself."""
    return below(folder, name) if isinstance(name, str) and "/" not in name else None


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
