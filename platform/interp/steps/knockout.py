"""What an answer loses when the prompt's last token no longer reads some of its tokens through some blocks' scans.

For each prompt, source of tokens and window of blocks the writes of the source are taken out of what the last token
reads, see `methods.knockout`: a drop says that the answer came this way. What travels on through the tokens between is
not cut. A block without a selective scan of its own states (attention, long convolutions) has nothing to cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
import torch
from pydantic import AfterValidator, Field

from ...core.errors import UsageError
from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, named_once, step
from ..engine.view import Column, LinePart, MapPart, TablePart, View
from ..methods.bins import token_bins
from ..methods.fact_averages import with_averages
from ..methods.fact_runs import NO_SCAN, completed, fact_schema, rows_of_each, without_scan
from ..methods.knockout import SCHEMA as KNOCKOUT
from ..methods.knockout import knockout
from ..methods.table import about

if TYPE_CHECKING:
    from ...models import LanguageModel

#: source -> the bins of its tokens
SOURCES = {
    "before": ("prefix",), "subject": ("subject_first", "subject_middle", "subject_last"), "further": ("further",),
}  # fmt: skip


class Settings(StepSettings):
    sources: Annotated[tuple[Literal["before", "subject", "further"], ...], AfterValidator(named_once)] = (
        "before", "subject", "further",
    )  # fmt: skip
    """tokens that are not read: those before the subject, the subject's, those between it and the last"""
    window: int = Field(1, ge=1)
    """neighbouring blocks cut at once"""
    decay: int | None = Field(None, ge=1)
    """number of groups of state coordinates by how fast they forget, each cut by itself; default: all at once"""
    block_conv: bool = False
    """whether the convolutions' taps from the source to the last token are cut as well"""


SCHEMA = fact_schema(
    column("source", pa.string(), "tokens whose writes the last token no longer reads: before, subject, further"),
    *KNOCKOUT,
    column("layer", pa.int32(), "the first of these blocks"),
    column("p0", pa.float64(), "probability of the answer without a cut"),
    more=f"; not_applicable: {NO_SCAN}, or the prompt has no such tokens before its last",
)


def check(asked: Asked) -> None:
    """`Step.check`: there are so many blocks."""
    if asked.settings.window > len(asked.layers):
        raise UsageError(f"a window of {asked.settings.window} blocks, and {len(asked.layers)} are looked at")


WORDS = {
    "before": "tokens before the subject", "subject": "the subject", "further": "tokens after the subject",
    "all": "all coordinates",
}  # fmt: skip
VIEW = View(
    "What an answer loses when tokens are no longer read",
    "The writes of some tokens are taken out of what the last token reads through a block's scan: a drop says that the "
    "answer came this way. What travels on through the tokens between is not cut.",
    (
        LinePart(part="averages", x="layer", y="mean", low="low", high="high", group="source", each=("group",),
                 title="Mean over prompts, {group}", label="relative change",
                 words=WORDS),
        MapPart(
            part="prompts",
            rows="id",
            columns="layer",
            value="effect",
            only={"status": "ok"},
            each=("source", "group"),
            title="Not read: {source}, {group}",
            label="relative change",
            scale="signed",
            words=WORDS,
        ),
        TablePart(
            part="prompts",
            title="The largest losses",
            only={"status": "ok"},
            sort=("effect",),
            top=12,
            columns=(
                Column("id", "prompt"), Column("source", "not read"), Column("layers", "blocks"), Column("group"),
                Column("p0", "probability"), Column("p", "with the cut"), Column("effect", form="signed"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A run for each source, window of blocks and group of coordinates, of one text at a time."""
    windows = len(asked.layers) - asked.settings.window + 1
    cuts = len(asked.settings.sources) * windows * (asked.settings.decay or 1)
    return Effort(2.6 * cuts * sum(lengths), of_files(2) + (2200 + 15 * len(lengths)) * cuts)


@step("knockout", items="facts", seeded=True, settings=Settings, check=check, view=VIEW, cost=cost)
def knockout_of_facts(job: Job) -> Tables:
    """What the answer loses when the last token no longer reads other tokens through some blocks' scans."""
    absent, width = without_scan(job), job.settings.window
    around = [job.layers[i : i + width] for i in range(len(job.layers) - width + 1)]
    kept = dict.fromkeys(tuple(i for i in window if i not in absent) for window in around)
    windows = [list(window) for window in kept if window]
    arguments = {"windows": windows, **job.settings.model_dump(mode="json", exclude={"window"})}
    rows = job.map(batch_cuts, SCHEMA, arguments) if windows else SCHEMA.empty_table()
    return with_averages(completed(rows, job, absent), ("source", "group", "layer"), "effect", job.seed)


def batch_cuts(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The rows of the prompts of one batch."""
    how = {name: arguments[name] for name in ("decay", "block_conv")}

    def rows_of(item: Any) -> list[dict[str, Any]]:
        bins, last = token_bins(len(item.tokens), item.subject), len(item.tokens) - 1
        found: list[dict[str, Any]] = []
        for source in arguments["sources"]:
            positions = [t for t, name in enumerate(bins[:last]) if name in SOURCES[source]]
            if not positions:
                reason = "the prompt has no such tokens before its last"
                found.append({"source": source, "status": NOT_APPLICABLE, "reason": reason})
                continue
            tokens = torch.tensor(item.tokens)
            table = knockout(model, tokens, last, positions, arguments["windows"], answer=item.answer, **how)
            common = {"source": source, "p0": float(about(table)["p0"])}
            found += [row | common | {"layer": row["layers"][0]} for row in table.to_pylist()]
        return found

    return rows_of_each(batch, SCHEMA, rows_of)
