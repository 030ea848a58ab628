"""Where along the depth a fact is written, kept and read: effects of early, middle and late layers, site by site.

From `fact_tracing`: a prompt's effects are averaged over the layers of a third of the depth and over the positions of a
token bin, then over prompts, with bootstrap intervals. Restoring the mixers' outputs early at the fact and late at the
last token is the usual picture of recall; whether a difference between thirds is more than chance is tested as a paired
difference over the same prompts (sign flips, Holm over all of them).

Parts: `profile`, `contrasts`. Thirds are of the model's depth and not of the layers asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from ...scoring.statistics import bootstrap_mean, holm, paired_difference
from ..engine.columns import column
from ..engine.effort import passes
from ..engine.places import SITE_WORDS
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Job, StepSettings, Tables, step
from ..engine.view import BarPart, Column, TablePart, View
from ..methods.bins import BINS
from .fact_tracing import is_read

GROUPS = ("early", "middle", "late")


class Settings(StepSettings):
    small = {"resamples": 100, "traced": "all"}

    traced: Literal["correct", "all"] = "correct"
    """traced prompts that count: those whose answer's first token the model finds most probable, or all"""
    resamples: int = Field(10_000, ge=100, le=1_000_000)
    """of bootstrap and sign flips"""
    confidence: float = Field(0.95, gt=0, lt=1)


_CELL = [
    column("site", pa.string(), "what was restored"),
    column("bin", pa.string(), "at which token: subject_first, subject_middle, subject_last (of the fact), further, "
           "last (of the prompt)"),
]  # fmt: skip
_INTERVAL = [
    column("low", pa.float64(), "lower end of its bootstrap interval; null for fewer than two prompts"),
    column("high", pa.float64(), "upper end"),
    column("n_prompts", pa.int32(), "prompts counted"),
]
_STATUS = column("status", pa.string(), "ok; model_nonfinite: no prompt could be traced; not_applicable: no layer of "
                 "the group has the site, or no prompt counts")  # fmt: skip

PROFILE_SCHEMA = pa.schema([
    *_CELL,
    column("group", pa.string(), "early, middle or late third of the depth"),
    column("layers", pa.list_(pa.int32()), "its blocks that were traced at this site"),
    column("effect", pa.float64(), "indirect effect, mean over these blocks and then over prompts"),
    *_INTERVAL, _STATUS,
])  # fmt: skip
CONTRASTS_SCHEMA = pa.schema([
    *_CELL,
    column("group", pa.string(), "the later third"),
    column("other", pa.string(), "the earlier one"),
    column("difference", pa.float64(), "effect of `group` minus that of `other`, mean over prompts"),
    *_INTERVAL,
    column("p", pa.float64(), "two-sided sign-flip p-value; null for fewer than two prompts"),
    column("p_holm", pa.float64(), "corrected for all contrasts of this table"),
    _STATUS,
])  # fmt: skip

Rows = list[dict[str, Any]]
#: (site, bin, group) -> question -> mean effect of the group's layers
Cells = dict[tuple[str, str, str], dict[str, float]]


def group_of(layer: int, n_layers: int) -> str:
    """The third of the depth that the middle of block `layer` of `n_layers` lies in."""
    return GROUPS[(2 * layer + 1) * len(GROUPS) // (2 * n_layers)]


_BIN_WORDS = {name: name.replace("subject", "fact").replace("_", " ") for name in BINS}
VIEW = View(
    "Where along the depth a fact is written, kept and read",
    "Effects of `fact_tracing`, averaged over the layers of a third of the depth and then over prompts, with bootstrap "
    "intervals over prompts. Thirds differ where the paired contrast says so, after Holm over all contrasts.",
    (
        BarPart(
            part="profile",
            x="bin",
            y="effect",
            low="low",
            high="high",
            group="group",
            each=("site",),
            title="Restored: {site}",
            x_label="at which token",
            label="indirect effect",
            words=SITE_WORDS | _BIN_WORDS | {group: f"{group} layers" for group in GROUPS},
        ),
        TablePart(
            part="contrasts",
            title="Contrasts between thirds",
            only={"status": "ok"},
            sort=("p_holm",),
            top=20,
            columns=(
                Column("site", "restored"), Column("bin", "token"), Column("group", "later"),
                Column("other", "earlier"), Column("difference", "later less earlier", "low", "high", form="signed"),
                Column("p_holm", "p", form="p"), Column("n_prompts", "prompts"),
            ),
            words=_BIN_WORDS,
        ),
    ),
)  # fmt: skip


@step(
    "layer_specialisation",
    version=1,
    needs=("fact_tracing",),
    settings=Settings,
    seeded=True,
    view=VIEW,
    cost=passes(0, bytes=0, layer_bytes=12_000, seconds=0.2),  # it reads no text
)
def layer_specialisation(job: Job) -> Tables:
    """Effects of early, middle and late layers per site and token bin, with intervals and contrasts."""
    traced = job.upstream["fact_tracing"][""].to_pylist()
    values: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    layers: dict[tuple[str, str], set[int]] = {}
    for row in traced:
        if row["status"] == "ok" and is_read(row):
            group = group_of(row["layer"], job.model.n_layers)
            layers.setdefault((row["site"], group), set()).add(row["layer"])
            if row["correct"] or job.settings.traced == "all":
                cell = values.setdefault((row["site"], row["bin"], group), {})
                cell.setdefault(row["question_id"], []).append(row["effect"])
    cells = {key: {id_: float(np.mean(effects)) for id_, effects in of.items()} for key, of in values.items()}
    nothing = "model_nonfinite" if not layers and any(r["status"] == "model_nonfinite" for r in traced) else None
    sites = list(dict.fromkeys(site for site, _ in layers))
    places = {site: [b for b in BINS if any(is_read(r) for r in traced if (r["site"], r["bin"]) == (site, b))]
              for site in sites}  # fmt: skip
    profile: Rows = [
        {"site": site, "bin": bin_, "group": group, "layers": sorted(layers.get((site, group), ()))}
        | _mean(cells.get((site, bin_, group), {}), job)
        for site in sites for bin_ in places[site] for group in GROUPS
    ]  # fmt: skip
    contrasts: Rows = [
        {"site": site, "bin": bin_, "group": later, "other": earlier}
        | _contrast(cells, site, bin_, later, earlier, job)
        for site in sites for bin_ in places[site] for earlier, later in combinations(GROUPS, 2)
    ]  # fmt: skip
    for row, corrected in zip(contrasts, holm([row.get("p") for row in contrasts]), strict=True):
        row["p_holm"] = corrected
    empty: Rows = [{"n_prompts": 0, "status": nothing or NOT_APPLICABLE}]
    return {
        "profile": pa.Table.from_pylist(profile or empty, schema=PROFILE_SCHEMA),
        "contrasts": pa.Table.from_pylist(contrasts or empty, schema=CONTRASTS_SCHEMA),
    }


def _mean(effects: Mapping[str, float], job: Job) -> dict[str, Any]:
    settings = job.settings
    found = bootstrap_mean(
        list(effects.values()), seed=job.seed, confidence=settings.confidence, n_resamples=settings.resamples
    )
    status = "ok" if effects else NOT_APPLICABLE
    return {"effect": found.mean, "low": found.low, "high": found.high, "n_prompts": found.n, "status": status}


def _contrast(cells: Cells, site: str, bin_: str, later: str, earlier: str, job: Job) -> dict[str, Any]:
    a, b = cells.get((site, bin_, later), {}), cells.get((site, bin_, earlier), {})
    both = [id_ for id_ in a if id_ in b]
    found = paired_difference(
        [a[id_] for id_ in both], [b[id_] for id_ in both], seed=job.seed, confidence=job.settings.confidence,
        n_resamples=job.settings.resamples,
    )  # fmt: skip
    return {
        "difference": found.mean, "low": found.low, "high": found.high, "n_prompts": found.n, "p": found.p,
        "status": "ok" if both else NOT_APPLICABLE,
    }  # fmt: skip
