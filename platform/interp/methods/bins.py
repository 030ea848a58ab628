"""Positions of prompts of different lengths on one scale: before the subject, its tokens, what follows, the last token.

After ROME's figures: the prefix; the subject's first, middle and last tokens; the further tokens; the prompt's last
token. Every position is in one bin. A subject of one token is its last token, one of two has no middle; where the
subject ends the prompt, no token is `further` or `last`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ...core.errors import UsageError
from ..engine.columns import column
from .corruption import Span, check_span
from .table import about

BINS = ("prefix", "subject_first", "subject_middle", "subject_last", "further", "last")

SCHEMA = pa.schema([
    column("site", pa.string(), "what was restored"),
    column("layer", pa.int32(), "block, or the centre of the window of blocks"),
    column("bin", pa.string(), f"tokens, one of {', '.join(BINS)}"),
    column("effect", pa.float64(), "mean indirect effect over the bin's traced positions"),
    column("positions", pa.int32(), "traced positions in the bin"),
])  # fmt: skip


def token_bins(length: int, subject: Span) -> list[str]:
    """The bin of each position of a prompt. Raises UsageError for a span that is empty or outside of it."""
    start, stop = check_span(subject, length)
    bins = ["prefix"] * start + ["subject_middle"] * (stop - start) + ["further"] * (length - stop)
    bins[start] = "subject_first"
    bins[stop - 1] = "subject_last"
    if stop < length:
        bins[-1] = "last"
    return bins


def bin_trace(table: pa.Table, subject: Span | None = None) -> pa.Table:
    """A trace with the positions of each bin averaged: rows by site, layer, bin; a bin without positions has none.

    subject: default the span that was corrupted. Raises UsageError where neither is known, or the span does not fit.
    """
    known = about(table)
    if "length" not in known or (subject is None and "subject" not in known):
        raise UsageError("this table does not say what was traced: pass what causal_trace returned, metadata included")
    if subject is None:
        start, _, stop = known["subject"].partition(":")
        subject = (int(start), int(stop))
    bins = token_bins(int(known["length"]), subject)
    cells: dict[tuple[str, int, str], list[float]] = {}
    for site, layer, position, effect in zip(
        *(table[name].to_pylist() for name in ("site", "layer", "position", "effect")), strict=True
    ):
        cells.setdefault((site, layer, bins[int(position)]), []).append(effect)
    sites = {site: i for i, site in enumerate(dict.fromkeys(table["site"].to_pylist()))}
    order = sorted(cells, key=lambda cell: (sites[cell[0]], cell[1], BINS.index(cell[2])))
    rows = [
        {"site": site, "layer": layer, "bin": name, "effect": float(np.mean(values)), "positions": len(values)}
        for site, layer, name in order
        for values in [cells[site, layer, name]]
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(known | {"subject": f"{subject[0]}:{subject[1]}"}))
