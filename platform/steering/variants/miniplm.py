"""MiniPLM: Mamba trained on a corpus refined by the difference of two models (Gu et al., arXiv 2410.17215).

A recipe for data, not an architecture: whatever can be steered in Mamba can be steered here, and nothing else.
"""

from __future__ import annotations

from dataclasses import replace

from . import Variant, variant
from .mamba import mamba


@variant("miniplm")
def miniplm() -> Variant:
    """As for Mamba; the published model is MiniLLM/MiniPLM-Mamba-130M of the hub."""
    return replace(mamba(), name="miniplm", default_model="tiny-miniplm")
