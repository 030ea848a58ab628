"""A compare run's folder -> what its analyses' own views say, under a heading of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..content import Interpretation
from ..documents import Document
from ..section import section
from .interpretation import read_interpretation


@section("compare")
def read_comparison(folder: Path, run: Document) -> Interpretation:
    """As an interp run; its models are named in the tables. Raises InputError for a damaged table."""
    return replace(read_interpretation(folder, run), heading="models side by side")
