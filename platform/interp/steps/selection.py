"""Which patterns of Delta, B and C go with recall: features of how a layer selects, against right and wrong answers.

For every prompt that states its answer (`evidence`) and every selective recurrence, `selectivity.FEATURES` say how
strongly the fact was written, how well B at the fact matches C at the last token, what the tokens between have left of
it. Each is correlated over prompts with whether the answer is right (point-biserial) and with its log-probability
(Pearson). Questions of one kind are easier than those of another and are written otherwise, farther back, in longer
prompts; so over all prompts nearly everything correlates. What is tested is the correlation within kinds of question
(category and number of hops), with distance and length of the prompt taken out: p-values are of random pairings of
prompts and outcomes within a kind, corrected after Holm over all layers and features of an outcome. Distance and length
stand beside the features, within kinds.

A correlation over prompts is no effect: `memory_decay` and tracing intervene.

Parts: `correlations`; `features`, a row for each prompt and recurrence; `profiles`, where each unit opens: its mean log
Delta in the parts of the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from ...scoring.statistics import correlations, holm
from ..engine.answers import score_answers
from ..engine.batches import Batch, Item
from ..engine.columns import column
from ..engine.effort import passes
from ..engine.places import rows_at
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Job, StepSettings, Tables, step
from ..engine.view import Column, MapPart, TablePart, View
from ..methods.moments import merge_rows, moments_of
from ..methods.recurrences import LayerRecurrence, recurrences_of
from ..methods.selectivity import FEATURES, PARTS, delta_profile, features
from ..methods.taps import Watch

if TYPE_CHECKING:
    from ...models import LanguageModel

OUTCOMES = ("correct", "logprob")
#: what could explain a correlation; properties of the prompt alone
CONFOUNDS = ("distance", "length")


class Settings(StepSettings):
    small = {"draws": 100}

    draws: int = Field(20_000, ge=100, le=1_000_000)
    """random pairings behind each p-value; the smallest possible one is 1 / (draws + 1)"""


_PLACE = [
    column("layer", pa.int32(), "block; null for properties of the prompt"),
    column("site", pa.string(), "where the recurrence stands in the block; null where there is none"),
]
_STATUS = column("status", pa.string(), "ok; model_nonfinite; not_applicable: no selective recurrence in the layer, "
                 "no answer stated in the prompt, or nothing varies; or why a question was not used")  # fmt: skip

CORRELATIONS_SCHEMA = pa.schema([
    *_PLACE,
    column("feature", pa.string(), "; ".join(f"{name}: {meaning}" for name, meaning in FEATURES.items())),
    column("outcome", pa.string(), "correct: teacher-forced answer right or wrong; logprob: of the answer, nats"),
    column("r", pa.float64(), "Pearson's correlation over all prompts, point-biserial for correct; kind of question, "
           "distance and length may explain it"),
    column("r_within", pa.float64(), "of what differs within kinds of question (category and hops) after distance and "
           "length, of confounds within kinds; null where nothing does"),
    column("p", pa.float64(), "two-sided p-value of r_within, prompts and outcomes paired anew within kinds"),
    column("p_holm", pa.float64(), "p corrected for all layers and features of this outcome; null for confounds"),
    column("mean_right", pa.float64(), "mean of the feature over prompts answered right; null where there are none"),
    column("mean_wrong", pa.float64(), "over those answered wrong"),
    column("n_kinds", pa.int32(), "kinds of question among the prompts"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out because a feature or the answer's score was not finite"),
    _STATUS,
])  # fmt: skip

FEATURES_SCHEMA = pa.schema([
    column("question_id", pa.string(), "the prompt"),
    *_PLACE,
    column("correct", pa.bool_(), "whether every token of the answer is the most probable one"),
    column("logprob", pa.float64(), "of the answer, nats"),
    column("distance", pa.int32(), "tokens from the end of the fact to the last one of the prompt"),
    column("length", pa.int32(), "tokens of the prompt"),
    column("kind", pa.string(), "category and hops of the question; null where nothing is known of it"),
    *(column(name, pa.float64(), meaning) for name, meaning in FEATURES.items()),
    _STATUS,
])  # fmt: skip

PROFILES_SCHEMA = pa.schema([
    *_PLACE,
    column("unit", pa.int32(), "what has a Delta of its own: channel or head"),
    *(column(part, pa.float64(), f"mean over prompts of log Delta {where}, less that over the whole prompt")
      for part, where in zip(PARTS, ("before the fact", "in it", "after it", "at the last token"), strict=True)),
    column("n_prompts", pa.int32(), "prompts that have all these parts"),
    _STATUS,
])  # fmt: skip

_PROFILE = [pa.field("n", pa.int64()), pa.field("mean", pa.list_(pa.float64())), pa.field("m2", pa.list_(pa.float64()))]
BATCH_SCHEMA = pa.schema([*FEATURES_SCHEMA, *_PROFILE])


VIEW = View(
    "Which patterns of Delta, B and C go with right answers",
    "Correlations over prompts, of what differs within kinds of question after distance and length of the prompt are "
    "taken out; over all prompts (r) nearly everything correlates, because hard questions are written otherwise. p "
    "is of random pairings within kinds, after Holm. A correlation is no effect.",
    (
        MapPart(
            part="correlations",
            rows="feature",
            columns="layer",
            value="r_within",
            only={"status": "ok"},
            each=("outcome", "site"),
            title="Correlation with {outcome}, {site}",
            label="r within kinds",
            scale="signed",
            words={"correct": "right answers", "logprob": "the answer's log-probability"},
        ),
        TablePart(
            part="correlations",
            title="The smallest p-values",
            only={"status": "ok"},
            sort=("p_holm", "p"),
            top=12,
            columns=(
                Column("layer", absent="–"), Column("feature"), Column("outcome"),
                Column("r_within", "r within kinds", form="signed"), Column("r", "r over all", form="signed"),
                Column("p_holm", "p", form="p", absent="–"), Column("mean_right", "mean, right"),
                Column("mean_wrong", "mean, wrong"), Column("n_prompts", "prompts"),
            ),
        ),
    ),
)  # fmt: skip


@step("selection", version=2, settings=Settings, seeded=True, view=VIEW, cost=passes(8, bytes=270, layer_bytes=26_000))
def selection(job: Job) -> Tables:
    """Which patterns of Delta, B and C go with right answers within kinds of question, with permutation p-values."""
    by_layer = {layer: selective(job.model, layer) for layer in job.layers}
    decays = [decay for decays in by_layer.values() for decay in decays]
    rows = job.map(batch_selection, BATCH_SCHEMA, {"layers": list(job.layers)}).to_pylist() if decays else []
    order = {item.id: number for number, item in enumerate(job.items)}
    of_prompts = [row for row in rows if row["question_id"] is not None]
    of_prompts.sort(key=lambda row: (order[row["question_id"]], row["layer"], row["site"]))
    without = [{"layer": layer, "status": NOT_APPLICABLE} for layer, decays in by_layer.items() if not decays]
    unstated = [(item.id, NOT_APPLICABLE) for item in job.items if item.fact is None]
    left_out = [
        {"question_id": id_, "layer": decay.layer, "site": decay.site, "status": status}
        for id_, status in [*unstated, *((e.id, e.status) for e in job.excluded)]
        for decay in decays
    ]
    tables = {
        "correlations": (_correlations(of_prompts, decays, job) + without, CORRELATIONS_SCHEMA),
        "features": (of_prompts + left_out + without, FEATURES_SCHEMA),
        "profiles": (_profiles(rows, decays) + without, PROFILES_SCHEMA),
    }
    return {name: pa.Table.from_pylist(rows, schema=schema) for name, (rows, schema) in tables.items()}


def selective(model: LanguageModel, layer: int) -> list[LayerRecurrence]:
    """The recurrences of a block that choose their Delta, B and C by the token."""
    return [
        decay for decay in recurrences_of(model, layer)
        if all(isinstance(site, str) for site in (decay.of.delta, decay.of.B, decay.of.C))
    ]  # fmt: skip


def _correlations(rows: Sequence[dict[str, Any]], decays: Sequence[LayerRecurrence], job: Job) -> list[dict[str, Any]]:
    result = []
    for outcome in OUTCOMES:
        here: list[dict[str, Any]] = []
        for decay in decays:
            place = {"layer": decay.layer, "site": decay.site, "outcome": outcome}
            its = rows_at(rows, decay.layer, decay.site)
            here += [place | row for row in _correlate(its, tuple(FEATURES), outcome, job)]
        for row, corrected in zip(here, holm([row.get("p") for row in here]), strict=True):
            row["p_holm"] = corrected
        prompts = list({row["question_id"]: row for row in rows if row["status"] == "ok"}.values())
        here += [{"outcome": outcome} | row for row in _correlate(prompts, CONFOUNDS, outcome, job)] if decays else []
        result += here
    return result


def _correlate(rows: Sequence[dict[str, Any]], names: Sequence[str], outcome: str, job: Job) -> list[dict[str, Any]]:
    """A row for each of `names`, over the prompts whose rows are ok."""
    good = [row for row in rows if row["status"] == "ok"]
    target = np.array([row[outcome] for row in good], np.float64)
    right = np.array([row["correct"] for row in good], bool)
    values = [np.array([row[name] for row in good], np.float64) for name in names]
    kinds = [row["kind"] for row in good]
    given = [] if names == CONFOUNDS else [np.array([row[name] for row in good], np.float64) for name in CONFOUNDS]
    tested = correlations(values, target, seed=job.seed, n_draws=job.settings.draws, strata=kinds, given=given)
    tested_rows: list[dict[str, Any]] = []
    for name, value, test in zip(names, values, tested, strict=True):
        row = {"feature": name, "n_kinds": len(set(kinds)), "n_prompts": test.n, "n_nonfinite": len(rows) - len(good)}
        if test.r is None:
            row["status"] = "model_nonfinite" if rows and not good else NOT_APPLICABLE
        else:
            row |= {"r": test.r, "r_within": test.r_within, "p": test.p, "status": "ok"}
            row["mean_right"] = float(value[right].mean()) if right.any() else None
            row["mean_wrong"] = float(value[~right].mean()) if (~right).any() else None
        tested_rows.append(row)
    return tested_rows


def _profiles(rows: Sequence[dict[str, Any]], decays: Sequence[LayerRecurrence]) -> list[dict[str, Any]]:
    result = []
    for decay in decays:
        its = [row for row in rows_at(rows, decay.layer, decay.site) if row["question_id"] is None]
        units = len(decay.A)
        total = merge_rows(its, len(PARTS) * units)
        means = total.mean.reshape(len(PARTS), units)
        for unit in range(units):
            row = {"layer": decay.layer, "site": decay.site, "unit": unit, "n_prompts": total.n}
            values = dict(zip(PARTS, means[:, unit].tolist(), strict=True))
            result.append(row | (values | {"status": "ok"} if total.n else {"status": NOT_APPLICABLE}))
    return result


@torch.no_grad()
def batch_selection(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each prompt that states its answer and each recurrence; one more with a recurrence's profile."""
    items = [item for item in batch.items if item.fact is not None]
    if not items:
        return BATCH_SCHEMA.empty_table()
    rows: list[dict[str, Any]] = []
    taps: list[Watch] = []
    for layer in arguments["layers"]:
        for decay in selective(model, layer):
            taps += _taps(decay, items, rows)
    answered = Batch(items, batch.device).answered()
    with model.edit(*taps):
        logits = model(answered.tokens, answered.mask)
    scores = score_answers(logits, answered)
    outcomes = {
        item.id: {"correct": correct, "logprob": logprob, "distance": item.distance, "length": len(item.prompt),
                  "kind": item.kind}
        for item, correct, logprob, finite in zip(
            items, scores.correct.tolist(), scores.logprob.tolist(), scores.finite.tolist(), strict=True
        )
        if finite
    }  # fmt: skip
    return pa.Table.from_pylist([_with_outcome(row, outcomes) for row in rows], schema=BATCH_SCHEMA)


def _with_outcome(row: dict[str, Any], outcomes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if row["question_id"] is None:
        return row
    known = outcomes.get(row["question_id"])
    if known is None:  # the answer's scores are not finite: the features belong to no outcome
        return {name: row[name] for name in ("question_id", "layer", "site")} | {"status": "model_nonfinite"}
    return row | known


def _taps(decay: LayerRecurrence, items: Sequence[Item], rows: list[dict[str, Any]]) -> list[Watch]:
    """Edits that change nothing and, when Delta, B and C of a recurrence have been seen, append its rows."""
    seen: dict[str, Tensor] = {}

    def watch(quantity: str) -> Watch:
        def see(x: Tensor, lengths: Tensor) -> None:
            seen[quantity] = x.double().cpu()
            if len(seen) == 3:
                rows.extend(_rows(decay, items, **seen))
                seen.clear()

        return Watch(decay.name(quantity), see)

    return [watch(quantity) for quantity in ("delta", "B", "C")]


def _rows(decay: LayerRecurrence, items: Sequence[Item], delta: Tensor, B: Tensor, C: Tensor) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    profiles = []
    for i, item in enumerate(items):
        assert item.fact is not None
        row = {"question_id": item.id, "layer": decay.layer, "site": decay.site, "status": "ok"}
        own = slice(0, len(item.prompt))
        step, write, read = delta[i, own], *(v[i, own].unflatten(-1, (decay.of.groups, -1)) for v in (B, C))
        values = features(decay, step, write, read, item.fact)
        if np.isfinite(list(values.values())).all():
            result.append(row | values)
            profiles.append(delta_profile(step, item.fact).flatten().numpy())
        else:
            result.append(row | {"status": "model_nonfinite"})
    whole = [profile for profile in profiles if np.isfinite(profile).all()]
    moments = moments_of(np.stack(whole) if whole else np.zeros((0, len(PARTS) * len(decay.A))))
    about = {"question_id": None, "layer": decay.layer, "site": decay.site}
    return [*result, about | {"n": moments.n, "mean": moments.mean, "m2": moments.m2}]
