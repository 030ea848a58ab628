"""How much of what a token reads through a block's scan comes from which tokens: hidden attention of factual prompts.

The weights alpha of `methods.hidden_attention` at the prompt's last token, their sizes added up over channels, as
shares by where the tokens stand. An exact rewriting of the scan at the input given, and no effect on the answer:
`knockout` measures that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Tables, step
from ..engine.view import LinePart, MapPart, View
from ..methods.bins import BINS, token_bins
from ..methods.fact_averages import with_averages
from ..methods.fact_runs import NO_SCAN, completed, fact_schema, rows_of_each, without_scan
from ..methods.hidden_attention import read_sizes
from ..methods.trace_words import BIN_TITLES

if TYPE_CHECKING:
    from ...models import LanguageModel

NOTHING_READ = "the last token reads nothing through the block"
SCHEMA = fact_schema(
    column("layer", pa.int32(), "block"),
    column("bin", pa.string(), f"where the tokens stand that are read, one of {', '.join(BINS)}"),
    column("positions", pa.int32(), "tokens there"),
    column("share", pa.float64(), "their share of the summed |weights| of what the last token reads, 0 to 1"),
    column("strongest", pa.int32(), "position of the one of largest summed |weight|"),
    more=f"; not_applicable: {NO_SCAN}, or {NOTHING_READ}",
)


VIEW = View(
    "From which tokens the last one reads",
    "Shares of the summed weights of each block's scan, written as attention: an exact rewriting at the input given, "
    "and no effect on the answer, which `knockout` measures.",
    (
        LinePart(
            part="averages",
            x="layer",
            y="mean",
            low="low",
            high="high",
            group="bin",
            title="Mean over prompts",
            label="share",
            words=BIN_TITLES | {"prefix": "tokens before the subject"},
        ),
        MapPart(
            part="prompts",
            rows="id",
            columns="layer",
            value="share",
            only={"status": "ok"},
            each=("bin",),
            title="Share of the {bin}",
            label="share",
            words=BIN_TITLES | {"prefix": "tokens before the subject"},
        ),
    ),
)


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Every pair of tokens of a text meets in every block."""
    layers = len(asked.layers)
    pairs = float(sum(length**2 for length in lengths))
    return Effort(layers * pairs, of_files(2) + (4500 + 70 * len(lengths)) * layers)


@step("hidden_attention", items="facts", seeded=True, view=VIEW, cost=cost)
def attention_of_facts(job: Job) -> Tables:
    """From which tokens the last one reads through each block's scan, as shares of its hidden attention."""
    absent = without_scan(job)
    layers = [i for i in job.layers if i not in absent]
    rows = job.map(batch_shares, SCHEMA, {"layers": layers}) if layers else SCHEMA.empty_table()
    return with_averages(completed(rows, job, absent), ("layer", "bin"), "share", job.seed)


def batch_shares(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The rows of the prompts of one batch."""

    def rows_of(item: Any) -> list[dict[str, Any]]:
        bins = token_bins(len(item.tokens), item.subject)
        found: list[dict[str, Any]] = []
        for layer in arguments["layers"]:
            weights = read_sizes(model, torch.tensor(item.tokens), layer)[-1]
            total = float(weights.sum())
            if total == 0.0:
                found.append({"layer": layer, "status": NOT_APPLICABLE, "reason": NOTHING_READ})
                continue
            for name in dict.fromkeys(bins):
                where = [t for t, other in enumerate(bins) if other == name]
                size = weights[where]
                found.append({
                    "layer": layer, "bin": name, "positions": len(where), "strongest": where[int(size.argmax())],
                    "share": float(size.sum()) / total,
                })  # fmt: skip
        return found

    return rows_of_each(batch, SCHEMA, rows_of)
