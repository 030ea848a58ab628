"""Sorting questions into categories, and drawing a balanced sample of them."""

from __future__ import annotations

from .classifying import Classification, Gathered, classify_gathered, gather

__all__ = ["Classification", "Gathered", "classify_gathered", "gather"]
