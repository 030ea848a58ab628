"""MiniPLM: Mamba trained on a corpus refined by the difference of two models (Gu et al., arXiv 2410.17215)."""

from __future__ import annotations

from dataclasses import replace

from . import Variant, default_variant, variant


@variant("miniplm")
def miniplm() -> Variant:
    """As for Mamba, whose architecture it is; the default model has to be fetched from the hub once."""
    return replace(default_variant("mamba"), name="miniplm", default_model="MiniLLM/MiniPLM-Mamba-130M")
