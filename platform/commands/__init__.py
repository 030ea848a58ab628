"""The command line: one file for each command, and in `frame` what they share."""

from __future__ import annotations

from .frame.main import build_app, main

__all__ = ["build_app", "main"]
