"""A local Ray whose actors live through many tests: starting them takes 20 seconds of processor time; not a test file.
Tests ask for the fixture `ray_workers`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from unittest.mock import patch

from mplat.runtime.session import Session, open_session

_open = ExitStack()
_running: list[Session] = []


@dataclass(frozen=True)
class Kept(Session):
    """A session that is there for the next test too."""

    def close(self) -> None:
        """Leave it open."""


def kept_actors(count: int) -> Session:
    """A session of one or two actors, whose Ray is there until `let_go`. They import what lies beside this file."""
    if not _running:
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        _open.enter_context(patch.dict(os.environ, PYTHONPATH=path))
        _running.append(_open.enter_context(open_session("local", actors=2)))
    session = _running[0].using(actors=count)
    return Kept(**{field.name: getattr(session, field.name) for field in fields(session)})


def let_go() -> None:
    """End Ray, if it runs."""
    _running.clear()
    _open.close()
