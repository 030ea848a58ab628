"""No steering: the model as it is, of whatever kind, asked every question."""

from __future__ import annotations

from . import Variant, variant


@variant("none")
def none() -> Variant:
    """Nothing is searched for, so nothing has to be held back from the judging."""
    return Variant("none", None, None, ())
