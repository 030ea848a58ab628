"""The errors of mplat under their public name; they are defined in `core.errors`."""

from __future__ import annotations

from .core.errors import (
    ClusterError,
    InputError,
    MplatError,
    StoppedEarly,
    ToleranceError,
    UsageError,
    suggest,
)

__all__ = ["ClusterError", "InputError", "MplatError", "StoppedEarly", "ToleranceError", "UsageError", "suggest"]
