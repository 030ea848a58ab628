"""What the parts of a model tell each other directly: path patching of factual prompts between blocks.

For each prompt and each pair of a sender below a receiver, the sender is restored to its clean value in the corrupted
run, at the subject's tokens or everywhere, and the receiver takes what it makes of that through the residual stream
alone; the effect is what this does to the answer, see `methods.path_patching`. Each pair costs two forward passes of
all samples, and there are as many as pairs of blocks: name few blocks with `layers` in a deep model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import torch

from ...core.errors import UsageError
from ...models.access.sites import parse
from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.places import places
from ..engine.step import Asked, Effort, Job, Tables, step
from ..engine.view import Column, MapPart, TablePart, View
from ..methods.corruption import items_noise
from ..methods.fact_averages import with_averages
from ..methods.fact_runs import clean_run, completed, corruption_of, fact_schema, rows_of_each
from ..methods.path_patching import SCHEMA as PATHS
from ..methods.path_patching import path_patching
from ..methods.table import about
from ..methods.trace_config import CorruptionSettings

if TYPE_CHECKING:
    from ...models import LanguageModel


class Settings(CorruptionSettings):
    sender: str = "mixer_out"
    """site of each block that is restored"""
    receiver: str = "mixer_in"
    """site of each later block that takes what it makes of that"""
    positions: Literal["subject", "all"] = "subject"
    """tokens at which the sender is restored"""


SCHEMA = fact_schema(
    *PATHS,
    column("sender_layer", pa.int32(), "block of the sender"),
    column("receiver_layer", pa.int32(), "block of the receiver"),
    column("metric_clean", pa.float64(), "metric of the clean run"),
    column("metric_corrupted", pa.float64(), "of the corrupted runs, their mean"),
    column("correct", pa.bool_(), "whether the clean run finds the target's first token most probable"),
    more="; model_wrong: the model answers otherwise; not_applicable: no sender stands below a receiver",
)


def check(asked: Asked) -> None:
    """`Step.check`: the blocks have both sites, and these can be edited."""
    known = {site.name: site for site in asked.model.sites()}
    for site in (asked.settings.sender, asked.settings.receiver):
        if not all(known[place.name].editable for place in places(asked.model, asked.layers, [site], one_axis=False)):
            raise UsageError(f"site {site!r} can only be read, not patched")


VIEW = View(
    "What the parts of a model tell each other directly",
    "A block's output is restored to its clean value in the corrupted run, and one later block takes what it makes of "
    "that through the residual stream alone; the effect is what this does to the answer.",
    (
        MapPart(part="averages", rows="sender_layer", columns="receiver_layer", value="mean",
                title="Mean over prompts", label="effect", scale="signed"),
        MapPart(
            part="prompts",
            rows="sender_layer",
            columns="receiver_layer",
            value="effect",
            only={"status": "ok"},
            each=("id",),
            most=6,
            title="{id}",
            label="effect",
            scale="signed",
        ),
        TablePart(
            part="prompts",
            title="The largest effects",
            only={"status": "ok"},
            sort=("-effect",),
            top=12,
            columns=(
                Column("id", "prompt"), Column("sender"), Column("receiver"), Column("effect", form="signed"),
                Column("metric_clean", "clean"), Column("metric_corrupted", "corrupted"),
                Column("correct", "answered right", absent="–"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """Two runs of every sample for each pair of blocks, as if every answer were right."""
    pairs = len(asked.layers) * (len(asked.layers) - 1) / 2
    return Effort(2.1 * pairs * asked.settings.samples * sum(lengths), of_files(2) + (4000 + 60 * len(lengths)) * pairs)


@step("path_patching", items="facts", settings=Settings, seeded=True, check=check, view=VIEW, cost=cost)
def paths_of_facts(job: Job) -> Tables:
    """What each block's output does to the answer through each later block that reads it directly."""
    settings: Settings = job.settings
    order = {site.name: number for number, site in enumerate(job.model.sites())}
    senders, receivers = (
        [place.name for place in places(job.model, job.layers, [site], one_axis=False)]
        for site in (settings.sender, settings.receiver)
    )
    rows = SCHEMA.empty_table()
    if paired := order[senders[0]] < order[receivers[-1]]:
        arguments = {
            "senders": senders, "receivers": receivers, "noise": items_noise(job.model, job.items, settings.noise),
            "seed": job.seed, **settings.model_dump(mode="json", exclude={"sender", "receiver", "noise"}),
        }  # fmt: skip
        rows = job.map(batch_paths, SCHEMA, arguments)
    absent = {} if paired else dict.fromkeys(job.layers, "no sender stands below a receiver")
    prompts = completed(rows, job, absent, "sender_layer")
    return with_averages(prompts, ("sender_layer", "receiver_layer"), "effect", job.seed)


def batch_paths(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The rows of the prompts of one batch."""
    receivers, how = arguments["receivers"], {name: arguments[name] for name in ("samples", "metric")}

    def rows_of(item: Any) -> list[dict[str, Any]]:
        said = clean_run(model, item, judged=arguments["judged"], correct_only=arguments["correct_only"])
        if said["status"] != "ok":
            return [said]
        corruption = corruption_of(item, seed=arguments["seed"], noise=arguments["noise"])
        span = list(range(*item.subject))
        senders = [f"{name}@{span}" if arguments["positions"] == "subject" else name for name in arguments["senders"]]
        tokens, other = torch.tensor(item.tokens), corruption.pop("corrupted", None)
        table = path_patching(model, tokens, other, senders, receivers, answer=said["answer"], **corruption, **how)
        known = about(table)
        common = {name: float(known[name]) for name in ("metric_clean", "metric_corrupted")}
        return [
            row | common | {"correct": said["correct"], "sender_layer": _block(row["sender"]),
                            "receiver_layer": _block(row["receiver"])}
            for row in table.to_pylist()
        ]  # fmt: skip

    return rows_of_each(batch, SCHEMA, rows_of)


def _block(selection: str) -> int:
    return int(parse(selection).name.split(".")[1])
