"""Which tokens each block reads, and what the answer loses when the last token no longer reads the evidence.

The first is the hidden attention of the block's scan, as shares of its summed |weights|: the step `hidden_attention`.
The second is the step `knockout` with the evidence as its source, and with other spans of as many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.statuses import GOOD, NOT_APPLICABLE
from ..methods.fact_runs import NO_SCAN
from ..methods.hidden_attention import read_sizes
from ..methods.prompts import FactItem
from ..methods.recurrences import scans_of
from ..steps.hidden_attention import NOTHING_READ
from ..steps.knockout import batch_cuts
from .choosing import Chosen
from .spans import Beside, other_spans, some_spans

if TYPE_CHECKING:
    from ...models import LanguageModel

CUT_CONTROLS = 8  # other spans that are cut
MAP_SIDE = 96  # cells of a side of the maps at most: neighbouring tokens of a longer prompt share one
EVIDENCE = "evidence"

_STATUS = [
    column("status", pa.string(), f"ok; not_applicable: {NO_SCAN}, or {NOTHING_READ}; or why there is no value"),
    column("reason", pa.string(), "the status in words; null where it is ok"),
]
READS_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("position", pa.int32(), "token that the prompt's last one reads; null where nothing is read"),
    column("token", pa.string(), "what it says"),
    column("share", pa.float64(), "its share of the summed |weights| of what the last token reads"),
    *_STATUS,
])  # fmt: skip
MAPS_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("reader", pa.int32(), "first token of the cell's row; its `width` tokens are averaged"),
    column("source", pa.int32(), "first token of the cell's column; its `width` tokens are added"),
    column("width", pa.int32(), "tokens that share a row or column; the last one may have fewer"),
    column("share", pa.float64(), "share of the summed |weights| of what the reader reads"),
])  # fmt: skip
CUTS_SCHEMA = pa.schema([
    column("layers", pa.list_(pa.int32()), "blocks through whose scans the last token no longer reads the span"),
    column("source", pa.string(), f"{EVIDENCE}, or the number of another span of as many tokens"),
    column("start", pa.int32(), "first token of the span"),
    column("stop", pa.int32(), "the token behind it"),
    column("p0", pa.float64(), "probability of the answer's first token without a cut"),
    column("p", pa.float64(), "with it"),
    column("effect", pa.float64(), "(p - p0) / p0; null where p0 is 0"),
    *_STATUS,
])  # fmt: skip
READERS_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block; null: all of those with a scan at once"),
    column("read", pa.float64(), "share of what the last token reads that is the evidence's"),
    column("read_others", pa.float64(), "of all other spans of as many tokens, the mean"),
    column("read_high", pa.float64(), "the largest"),
    column("read_above", pa.float64(), "share of these spans that is read more"),
    column("spans", pa.int32(), "these spans"),
    column("cut", pa.float64(), "relative change of the answer's probability where the evidence is no longer read"),
    column("cut_others", pa.float64(), "where another span is not, median"),
    column("cut_low", pa.float64(), "the smallest of these"),
    column("cut_high", pa.float64(), "the largest"),
    column("cut_spans", pa.int32(), "these spans"),
    *_STATUS,
])  # fmt: skip

Rows = list[dict[str, Any]]


def reading_tables(model: LanguageModel, chosen: Chosen, layers: Sequence[int]) -> dict[str, pa.Table]:
    """The tables reads, maps, cuts and readers; without evidence the first two of them alone."""
    tokens = torch.tensor(chosen.item.prompt)
    reads, maps = Rows(), Rows()
    shares: dict[int, list[float] | None] = {}
    for layer in layers:
        if not scans_of(model, layer):
            reads.append({"layer": layer, "status": NOT_APPLICABLE, "reason": NO_SCAN})
            continue
        sizes = read_sizes(model, tokens, layer).cpu().numpy()
        total = sizes.sum(1, keepdims=True)
        rows = np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0)
        maps += [{"layer": layer, **cell} for cell in pooled(rows)]
        if not total[-1]:
            shares[layer] = None
            reads.append({"layer": layer, "status": NOT_APPLICABLE, "reason": NOTHING_READ})
            continue
        shares[layer] = rows[-1].tolist()
        about = {"layer": layer, "status": GOOD}
        reads += [about | {"position": t, "token": chosen.tokens[t], "share": v} for t, v in enumerate(rows[-1])]
    tables = {
        "reads": pa.Table.from_pylist(reads, schema=READS_SCHEMA),
        "maps": pa.Table.from_pylist(maps, schema=MAPS_SCHEMA),
    }
    if chosen.span is None:
        return tables
    cuts = _cuts(model, chosen, list(shares))
    readers = [_reader(layer, shares, cuts, chosen) for layer in layers]
    if len(shares) > 1:
        readers.append({"layer": None, "status": GOOD} | _cut_beside(cuts, list(shares)))
    return tables | {
        "cuts": pa.Table.from_pylist(cuts, schema=CUTS_SCHEMA),
        "readers": pa.Table.from_pylist(readers, schema=READERS_SCHEMA),
    }


def pooled(rows: np.ndarray[Any, np.dtype[np.float64]], side: int = MAP_SIDE) -> Rows:
    """The lower triangle of shares (T, T) as cells; where T is above `side`, as few neighbouring tokens as need be
    share a row (their mean) and a column (their sum)."""
    length = len(rows)
    width = -(-length // side)
    edges = range(0, length, width)
    sums = np.add.reduceat(rows, edges, axis=1)
    counts = np.diff([*edges, length])
    means = np.add.reduceat(sums, edges, axis=0) / counts[:, None]
    return [
        {"reader": i * width, "source": j * width, "width": width, "share": float(means[i, j])}
        for i in range(len(means)) for j in range(i + 1)
    ]  # fmt: skip


def _cuts(model: LanguageModel, chosen: Chosen, layers: list[int]) -> Rows:
    """The rows of `CUTS_SCHEMA`: each block by itself, and all of them at once."""
    if not layers:
        return []
    assert chosen.span is not None
    spans = {EVIDENCE: chosen.span}
    others = some_spans(len(chosen.tokens), chosen.span, CUT_CONTROLS)
    spans |= {str(number): span for number, span in enumerate(others, 1)}
    answer = chosen.item.answer[0]
    items = [FactItem(name, chosen.item.prompt, span, answer) for name, span in spans.items()]
    windows = [[layer] for layer in layers] + ([layers] if len(layers) > 1 else [])
    arguments = {"windows": windows, "sources": ["subject"], "decay": None, "block_conv": False}
    rows = batch_cuts(model, Batch(items, model.device), arguments).to_pylist()
    return [row | {"source": row["id"], "start": spans[row["id"]][0], "stop": spans[row["id"]][1]} for row in rows]


def _reader(layer: int, shares: dict[int, list[float] | None], cuts: Rows, chosen: Chosen) -> dict[str, Any]:
    if layer not in shares:
        return {"layer": layer, "status": NOT_APPLICABLE, "reason": NO_SCAN}
    row: dict[str, Any] = {"layer": layer, "status": GOOD}
    its, span = shares[layer], chosen.span
    assert span is not None
    if its is not None:
        others = [sum(its[start:stop]) for start, stop in other_spans(len(its), span)]
        read = Beside.of(sum(its[span[0] : span[1]]), others)
        row |= {"read": read.value, "read_others": read.mean, "read_high": read.high, "read_above": read.above}
        row |= {"spans": read.n}
    return row | _cut_beside(cuts, [layer])


def _cut_beside(cuts: Rows, layers: list[int]) -> dict[str, Any]:
    here = [row for row in cuts if row["layers"] == layers and row["effect"] is not None]
    own = [row["effect"] for row in here if row["source"] == EVIDENCE]
    if not own:
        return {}
    cut = Beside.of(own[0], [row["effect"] for row in here if row["source"] != EVIDENCE])
    return {"cut": cut.value, "cut_others": cut.median, "cut_low": cut.low, "cut_high": cut.high, "cut_spans": cut.n}
