"""The report: run folders in, one self-contained HTML file out.

from mplat.report import load, write
write(load([Path("runs/quickstart")]), Path("report.html"))
"""

from __future__ import annotations

from .content import Report
from .load import load
from .page import render, write

__all__ = ["Report", "load", "render", "write"]
