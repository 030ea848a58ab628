"""What the residual stream says after every block: read out as if the model ended there, at some tokens of each prompt.

By default at the subject's last token and at the prompt's last, where the answer follows. The lens has no parameters of
its own: early blocks of a model whose stream turns on the way say little through it, and that is no measurement of what
they know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
import torch
from pydantic import AfterValidator, Field

from ...core.errors import UsageError
from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import passes
from ..engine.places import places
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Job, StepSettings, Tables, named_once, step
from ..engine.view import Column, LinePart, MapPart, TablePart, View
from ..methods.bins import BINS, token_bins
from ..methods.fact_averages import with_averages
from ..methods.fact_runs import completed, fact_schema, rows_of_each
from ..methods.logit_lens import SCHEMA as LENS
from ..methods.logit_lens import logit_lens
from ..methods.trace_words import BIN_TITLES

if TYPE_CHECKING:
    from ...models import LanguageModel

Bin = Literal["prefix", "subject_first", "subject_middle", "subject_last", "further", "last"]
assert Bin.__args__ == BINS  # type: ignore[attr-defined]


class Settings(StepSettings):
    site: Literal["resid_post", "resid_pre", "resid_mid"] = "resid_post"
    """of the residual stream"""
    bins: Annotated[tuple[Bin, ...], AfterValidator(named_once)] = ("subject_last", "last")
    """tokens at which it is read, by where they stand"""
    top: int = Field(5, ge=1)
    """most probable tokens that are listed"""


SCHEMA = fact_schema(
    *LENS,
    column("bin", pa.string(), f"where the token stands, one of {', '.join(BINS)}"),
    more="; not_applicable: the prompt has no such token",
)


def check(asked: Asked) -> None:
    """`Step.check`: the blocks have the site, and the vocabulary so many tokens."""
    places(asked.model, asked.layers, [asked.settings.site], one_axis=False)
    if asked.settings.top > asked.model.config.vocab_size:
        raise UsageError(f"top {asked.settings.top}: the vocabulary has {asked.model.config.vocab_size} tokens")


VIEW = View(
    "What the residual stream says after every block",
    "Read out as if the model ended there. Early blocks of a model whose stream turns on the way say little through "
    "it, which is no measurement of what they know.",
    (
        LinePart(part="averages", x="layer", y="mean", low="low", high="high", group="bin", title="Mean over prompts",
                 label="probability", words=BIN_TITLES),
        MapPart(
            part="prompts",
            rows="id",
            columns="layer",
            value="answer_prob",
            only={"status": "ok"},
            each=("bin",),
            title="Probability of the answer, {bin}",
            label="probability",
            words=BIN_TITLES,
        ),
        TablePart(
            part="prompts",
            title="The most probable tokens",
            only={"status": "ok"},
            top=24,
            columns=(
                Column("id", "prompt"), Column("layer"), Column("token"), Column("top_tokens", "most probable"),
                Column("answer_rank", "rank of the answer"), Column("answer_prob", "its probability"),
                Column("kl", "distance to the end, nats"),
            ),
        ),
    ),
)  # fmt: skip


@step(
    "logit_lens",
    items="facts",
    seeded=True,
    settings=Settings,
    check=check,
    view=VIEW,
    cost=passes(5.2, bytes=640, layer_bytes=11_000, seconds=0.7),
)
def lens_of_facts(job: Job) -> Tables:
    """What the residual stream says after every block: rank and probability of the answer, the most probable tokens."""
    arguments = {"layers": list(job.layers), **job.settings.model_dump(mode="json")}
    return with_averages(
        completed(job.map(batch_lenses, SCHEMA, arguments), job), ("layer", "bin"), "answer_prob", job.seed
    )


def batch_lenses(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The rows of the prompts of one batch."""
    how = {name: arguments[name] for name in ("layers", "site", "top")}

    def rows_of(item: Any) -> list[dict[str, Any]]:
        bins = token_bins(len(item.tokens), item.subject)
        positions = [t for t, name in enumerate(bins) if name in arguments["bins"]]
        if not positions:
            return [{"status": NOT_APPLICABLE, "reason": f"no token is {' or '.join(arguments['bins'])}"}]
        table = logit_lens(model, torch.tensor(item.tokens), positions=positions, answer=item.answer, **how)
        return [row | {"bin": bins[row["position"]]} for row in table.to_pylist()]

    return rows_of_each(batch, SCHEMA, rows_of)
