"""Vectors in words and as plain values, for whoever shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.plain_text import Table
from .vectors import Vectors


def values(vectors: Vectors, path: Path | None) -> dict[str, Any]:
    """Everything but the directions, and where the file is."""
    return vectors.to_dict() | {"best_layer": vectors.best_layer, "out": None if path is None else str(path)}


def words(vectors: Vectors, path: Path | None) -> list[str | Table]:
    """A line about what was contrasted, a table of the layers, and what it does not say."""
    rows = [[n, v.auroc, v.apart, v.rms, v.apart / v.rms if v.rms else None] for n, v in vectors.layers.items()]
    return [
        f"{vectors.source}: {vectors.n_positive} positive and {vectors.n_negative} negative texts",
        f"{vectors.method} at {vectors.site}, {_AT[vectors.at]}",
        Table(["layer", "held-out AUROC", "means apart", "RMS of the site", "apart / RMS"], rows),
        "AUROC 0.5 is chance; a direction that separates need not do anything when it is added",
        f"vectors: {path}" if path is not None else "--out DIR keeps the vectors",
    ]


_AT = {"last": "at the last token", "evidence": "mean over the evidence", "all": "mean over all tokens"}
