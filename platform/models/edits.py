"""The edits under their public name; they are defined in `access.edits`."""

from __future__ import annotations

from .access.direction_edits import Features, ScaleSubspace
from .access.edits import Add, Clamp, Edit, Interpolate, ProjectOut, Replace, Scale

__all__ = ["Add", "Clamp", "Edit", "Features", "Interpolate", "ProjectOut", "Replace", "Scale", "ScaleSubspace"]
