"""Kinds of selection: units that open at the same places, and prompts that are selected in the same way.

Two clusterings of what the step `selection` found, see `clustering` for method and silhouette:
units of a layer, by the profile of their log Delta over the parts of a prompt (before the fact, in it, after it, at the
last token), in nats; and prompts, by the features of all layers, each standardised over prompts, with how many of each
cluster are answered right. Prompts that are selected alike are often questions of one kind: `agreement` says how far
clusters are the kinds (category and hops), and `p` whether right answers go with clusters within kinds. Clusters are
a description; k-means finds some in any cloud.

Parts: `clusters`, a row for each; `units` and `prompts`, who is in which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from ...core.errors import InputError
from ...scoring.statistics import groups_differ_p, wilson
from ..engine.columns import column
from ..engine.effort import passes
from ..engine.places import rows_at
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Job, StepSettings, Tables, step
from ..engine.view import Column, TablePart, View
from ..methods.clustering import Clusters, agreement, cluster
from ..methods.selectivity import FEATURES, PARTS


class Settings(StepSettings):
    largest: int = Field(8, ge=2, le=50)
    """clusters to try at most; their number is that of the best silhouette"""
    draws: int = Field(10_000, ge=100, le=1_000_000)
    """random pairings behind the p-value"""


_OF = column("of", pa.string(), "units: channels or heads of one recurrence; prompts: all layers together")
_STATUS = column("status", pa.string(), "ok; not_applicable: nothing to cluster, or fewer than three different points; "
                 "model_nonfinite")  # fmt: skip
_PLACE = [
    column("layer", pa.int32(), "block; null for prompts"),
    column("site", pa.string(), "where the recurrence stands in the block; null for prompts"),
]

CLUSTERS_SCHEMA = pa.schema([
    _OF, *_PLACE,
    column("k", pa.int32(), "how many clusters, chosen by silhouette"),
    column("silhouette", pa.float64(), "mean silhouette of that number; near 0: the cloud has no parts"),
    column("cluster", pa.int32(), "from 0, the largest first"),
    column("size", pa.int32(), "members"),
    *(column(part, pa.float64(), f"units: log Delta of the centre, {part}, less that over the prompt") for part in
      PARTS),
    column("accuracy", pa.float64(), "prompts: share answered right"),
    column("accuracy_low", pa.float64(), "lower bound of its 95 % Wilson interval"),
    column("accuracy_high", pa.float64(), "upper bound"),
    column("p", pa.float64(), "prompts: that clusters differ in accuracy within kinds of question, the same for all of "
           "them; permutations; null where accuracy varies within no kind"),
    column("agreement", pa.float64(), "prompts: adjusted Rand index of clusters and kinds of question: 1 they are the "
           "same, 0 no more alike than chance; null where there is one kind"),
    _STATUS,
])  # fmt: skip
UNITS_SCHEMA = pa.schema(
    [*_PLACE, column("unit", pa.int32(), "channel or head"), column("cluster", pa.int32(), "its cluster"), _STATUS]
)
PROMPTS_SCHEMA = pa.schema(
    [column("question_id", pa.string(), "the prompt"), column("cluster", pa.int32(), "its cluster"),
     column("correct", pa.bool_(), "whether it is answered right"), _STATUS]
)  # fmt: skip


VIEW = View(
    "Units that open at the same places, prompts that are selected alike",
    "k-means finds clusters in any cloud: below a silhouette of 0.25 they show nothing. Clusters of prompts are often "
    "kinds of question, which the agreement says: 1 they are the same, 0 no more alike than chance.",
    (
        TablePart(
            part="clusters",
            title="Clusters of units, by their log Delta in the parts of the prompts",
            only={"of": "units", "status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("cluster"), Column("size", "units"), Column("silhouette"),
                *(Column(part, part.replace("_", " "), form="signed") for part in PARTS),
            ),
        ),
        TablePart(
            part="clusters",
            title="Clusters of prompts",
            only={"of": "prompts", "status": "ok"},
            columns=(
                Column("cluster"), Column("size", "prompts"), Column("silhouette"),
                Column("accuracy", "share right", "accuracy_low", "accuracy_high"), Column("p", form="p"),
                Column("agreement", "agreement with kinds", absent="–"),
            ),
        ),
    ),
)  # fmt: skip


@step(
    "selection_clusters",
    version=2,
    needs=("selection",),
    settings=Settings,
    seeded=True,
    view=VIEW,
    cost=passes(0, bytes=0, layer_bytes=14_000, seconds=1.4),  # it reads no text
)
def selection_clusters(job: Job) -> Tables:
    """Clusters of units by where they open, and of prompts by how they are selected."""
    upstream = job.upstream["selection"]
    clusters, units = _of_units(upstream["profiles"].to_pylist(), job)
    more, prompts = _of_prompts(upstream["features"].to_pylist(), job)
    return {
        "clusters": pa.Table.from_pylist(clusters + more, schema=CLUSTERS_SCHEMA),
        "units": pa.Table.from_pylist(units, schema=UNITS_SCHEMA),
        "prompts": pa.Table.from_pylist(prompts, schema=PROMPTS_SCHEMA),
    }


Rows = list[dict[str, Any]]


def _of_units(profiles: Sequence[dict[str, Any]], job: Job) -> tuple[Rows, Rows]:
    clusters: Rows = []
    members: Rows = []
    for layer, site in dict.fromkeys((row["layer"], row["site"]) for row in profiles):
        its = rows_at(profiles, layer, site)
        place = {"layer": layer, "site": site}
        points = [[row[part] for part in PARTS] for row in its if row["status"] == "ok"]
        clustering = _cluster(points, job) if len(points) == len(its) else None
        if clustering is None:
            clusters.append({"of": "units", "status": NOT_APPLICABLE} | place)
            members += [place | {"unit": row["unit"], "status": NOT_APPLICABLE} for row in its]
            continue
        for number, row in enumerate(_cluster_rows("units", clustering)):
            clusters.append(row | place | dict(zip(PARTS, clustering.centres[number].tolist(), strict=True)))
        members += [
            place | {"unit": row["unit"], "cluster": int(label), "status": "ok"}
            for row, label in zip(its, clustering.labels, strict=True)
        ]
    return clusters, members


def _of_prompts(features: Sequence[dict[str, Any]], job: Job) -> tuple[Rows, Rows]:
    by_prompt: dict[str, Rows] = {}
    for row in features:
        if row["question_id"] is not None:
            by_prompt.setdefault(row["question_id"], []).append(row)
    # a prompt that is not finite in one layer has no pattern over all of them
    whole = {id_: rows for id_, rows in by_prompt.items() if all(row["status"] == "ok" for row in rows)}
    points = [[row[name] for row in rows for name in FEATURES] for rows in whole.values()]
    clustering = _cluster(_standardised(points), job)
    if clustering is None:
        status = NOT_APPLICABLE
        return [{"of": "prompts", "status": status}], [{"question_id": id_, "status": status} for id_ in by_prompt]
    correct = np.array([rows[0]["correct"] for rows in whole.values()])
    kinds = [rows[0]["kind"] for rows in whole.values()]
    labels = clustering.labels.tolist()
    about = {
        "p": groups_differ_p(labels, correct, seed=job.seed, n_draws=job.settings.draws, strata=kinds),
        "agreement": agreement(labels, kinds) if len(set(kinds)) > 1 else None,
    }
    clusters = []
    for number, row in enumerate(_cluster_rows("prompts", clustering)):
        row |= about
        share = wilson(correct[clustering.labels == number])
        clusters.append(row | {"accuracy": share.mean, "accuracy_low": share.low, "accuracy_high": share.high})
    members: Rows = [
        {"question_id": id_, "cluster": int(label), "correct": bool(right), "status": "ok"}
        for id_, label, right in zip(whole, clustering.labels, correct, strict=True)
    ]
    for id_, rows in by_prompt.items():
        if id_ not in whole:
            bad = next(row["status"] for row in rows if row["status"] != "ok")
            members.append({"question_id": id_, "status": bad})
    return clusters, members


def _standardised(points: Sequence[Sequence[float]]) -> np.ndarray:
    """Each column with mean 0 and variance 1; columns that do not vary are left out, they tell nothing apart."""
    if not points:
        return np.zeros((0, 0))
    x = np.array(points, np.float64)
    x = x[:, np.ptp(x, axis=0) > 0]
    return (x - x.mean(0)) / x.std(0)


def _cluster(points: Any, job: Job) -> Clusters | None:
    """None where there are no three different points."""
    if len(points) < 3:
        return None
    try:
        return cluster(points, largest=job.settings.largest, seed=job.seed % 2**32)
    except InputError:
        return None


def _cluster_rows(of: str, clustering: Clusters) -> Rows:
    sizes = np.bincount(clustering.labels, minlength=clustering.k)
    about = {"of": of, "k": clustering.k, "silhouette": clustering.silhouette, "status": "ok"}
    return [about | {"cluster": number, "size": int(size)} for number, size in enumerate(sizes)]
