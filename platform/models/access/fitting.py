"""Which sites of a model each edit acts on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ...core.errors import UsageError
from .edits import Edit
from .run import Applied
from .sites import Site, expand


def fitted(edits: Sequence[Edit], sites: Sequence[Site]) -> list[Applied]:
    """Each edit with those of `sites` that it acts on.

    Raises UsageError for what is no edit, one that fits no site or one that cannot be edited, and a mask over the
    positions of a site that has none.
    """
    for e in edits:
        if not isinstance(e, Edit):
            raise UsageError(f"model.edit takes edits such as Scale(...), not {type(e).__name__}")
    found = [expand(e.selection, sites) for e in edits]
    fixed = next((s.name for s in itertools.chain(*found) if not s.editable), None)
    if fixed is not None:
        raise UsageError(f"site {fixed!r} can be read but not edited; see model.sites()")
    for e, each in zip(edits, found, strict=True):
        if e.where is not None and (without := [s.name for s in each if s.constant]):
            raise UsageError(f"edit {e}: site {without[0]!r} has no positions, so that no mask fits it")
    return [Applied(e, frozenset(s.name for s in each)) for e, each in zip(edits, found, strict=True)]
