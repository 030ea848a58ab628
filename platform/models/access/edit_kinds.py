"""The kinds of edits that can be stored, by the name under which they are."""

from __future__ import annotations

from .direction_edits import Features, ScaleSubspace
from .edits import Add, Clamp, Edit, Interpolate, ProjectOut, Replace, Scale

KINDS: dict[str, type[Edit]] = {
    c.kind: c for c in (Scale, Add, Replace, Clamp, ProjectOut, Interpolate, ScaleSubspace, Features)
}
