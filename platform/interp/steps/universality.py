"""Whether the same units answer different questions, and whether other models answer with the same ones.

A unit is a channel of a chosen site; its effect is the first-order change of the answer's log-probability when it stays
at its mean (`effect_readings`). The circuit of a kind of questions (category and hops) is the share of units whose loss
costs most. Circuits are compared by counting the units they share, against the hypergeometric expectation:

*kinds*: two kinds within a model; *halves*: one kind by either half of its questions, which is how much two circuits of
the same thing share; *models*: the same kind in another model, whose channels are paired at equal relative depth by the
correlation of their values (`circuits_compared`), with copies of the analysed model with shuffled weights in the
other's place as a control: they read the same words, and share units as far as that alone makes them.

*Transfer* is measured, not estimated: the circuit that was chosen on one half of a kind is put at its means, and the
other half of every kind answers, beside as many random other units at the same sites. A circuit that only its own kind
needs is special to it.

Parts: `profile`, where circuits lie by relative depth; `overlaps`; `transfer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from ...runtime.plan import digest_of
from ...scoring.statistics import holm, paired_difference
from ..engine.batches import Item
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.places import Place, check_sites, places
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Sites, StepSettings, Tables, step
from ..engine.view import BarPart, Column, MapPart, TablePart, View
from ..methods.circuits_compared import (
    Compared,
    Halved,
    between_halves,
    by_place,
    circuit,
    circuit_size,
    compared,
    paired_units,
    random_like,
)  # fmt: skip
from ..methods.effect_readings import ABLATIONS, EFFECTS, ReadEffects, batch_ablations, batch_effects, read_effects
from ..methods.question_halves import group_of, halves_by_group
from ..methods.site_readings import weight_seeds
from ..methods.sites_across_models import depth, names_of, one_to_one, sites_of

Floats = NDArray[np.float64]
ALL = "all questions"


class Settings(StepSettings):
    small = {"by": "all", "fewest": 2, "splits": 1, "draws": 1, "shuffled_models": 1, "resamples": 100}

    sites: Sites = ("mixer_out",)
    """sites of each block whose channels are the units; of other models those of the same name"""
    share: float = Field(0.05, gt=0, lt=1)
    """of all units, in a circuit"""
    by: Literal["kind", "all"] = "kind"
    """circuits of each kind of question, or one of all of them"""
    fewest: int = Field(8, ge=2)
    """questions that a kind has to have"""
    splits: int = Field(3, ge=1, le=100)
    """random halves of the questions, for the spread of what is shared"""
    draws: int = Field(3, ge=1, le=100)
    """random units for each circuit that is put at its means"""
    shuffled_models: int = Field(3, ge=0, le=100)
    """copies with shuffled weights"""
    resamples: int = Field(10_000, ge=100, le=1_000_000)
    """random signs: p-values are corrected for many rows, and none is below one over these"""
    confidence: float = Field(0.95, gt=0.5, lt=1)


_STATUS = [
    column("status", pa.string(), "ok; not_applicable, see reason"),
    column("reason", pa.string(), "why there is no value"),
]
PROFILE_SCHEMA = pa.schema([
    column("model", pa.string(), "name of the model"),
    column("kind", pa.string(), "kind of question"),
    column("site", pa.string(), "site, relative to the block"),
    column("layer", pa.int32(), "block"),
    column("depth", pa.float64(), "middle of the block over the model's blocks, 0 to 1"),
    column("units", pa.int32(), "channels of the site"),
    column("in_circuit", pa.int32(), "of them in the circuit"),
    column("effect_share", pa.float64(), "share of all units' |mean effect| that is here"),
    *_STATUS,
])  # fmt: skip
OVERLAPS_SCHEMA = pa.schema([
    column("comparison", pa.string(), "kinds, within a model; halves, of one kind; models; shuffled weights"),
    column("model", pa.string(), "name of the model"),
    column("other", pa.string(), "the other model; the same one within a model"),
    column("kind", pa.string(), "kind of question"),
    column("other_kind", pa.string(), "the other kind; the same one between models and halves"),
    column("draw", pa.int32(), "of shuffled weights"),
    column("control", pa.bool_(), "whether the row is a control: halves, above, or shuffled weights, below"),
    column("units", pa.int32(), "units that both have"),
    column("circuit", pa.int32(), "units of a circuit"),
    column("shared", pa.int32(), "units in both circuits"),
    column("expected", pa.float64(), "of circuits drawn blindly"),
    column("ratio", pa.float64(), "shared over expected"),
    column("halves_mean", pa.float64(), "shared by circuits that were chosen on different halves, mean over splits"),
    column("halves_low", pa.int32(), "fewest of the splits"),
    column("halves_high", pa.int32(), "most of the splits"),
    column("rank_correlation", pa.float64(), "of the mean effects of all units, Spearman"),
    column("p", pa.float64(), "of so many shared or more, hypergeometric"),
    column("p_holm", pa.float64(), "corrected for all rows that are no controls; null for these"),
    column("n_questions", pa.int32(), "questions behind the smaller of the two circuits"),
    *_STATUS,
])  # fmt: skip
TRANSFER_SCHEMA = pa.schema([
    column("model", pa.string(), "name of the model"),
    column("ablated", pa.string(), "kind whose circuit is put at its means"),
    column("kind", pa.string(), "kind that answers"),
    column("units", pa.int32(), "in the circuit"),
    column("loss", pa.float64(), "log-probability of the answer that is lost, nats"),
    column("loss_low", pa.float64(), "lower bound of its interval over groups of questions"),
    column("loss_high", pa.float64(), "upper bound"),
    column("random", pa.float64(), "the same of random units, mean over draws"),
    column("random_low", pa.float64(), "the smallest of the draws"),
    column("random_high", pa.float64(), "the largest"),
    column("difference", pa.float64(), "loss less that of random units"),
    column("difference_low", pa.float64(), "lower bound of its interval"),
    column("difference_high", pa.float64(), "upper bound"),
    column("p", pa.float64(), "two-sided p-value of no difference"),
    column("p_holm", pa.float64(), "corrected for all rows of the table"),
    column("n_questions", pa.int32(), "questions that answer"),
    *_STATUS,
])  # fmt: skip

VIEW = View(
    "Do the same units answer other questions, and in other models?",
    "A circuit is the share of units whose loss costs the answers of a kind most. Units that two circuits share are "
    "counted against blind draws: halves of one kind show what two circuits of the same thing share, shuffled weights "
    "what a model shares that has learned nothing. A circuit put at its means is judged on questions that did not "
    "choose it, beside as many random units of the same sites.",
    (
        MapPart(part="overlaps", rows="kind", columns="other_kind", value="ratio", each=("model",),
                only={"comparison": ("kinds", "halves"), "status": "ok"},
                title="Units shared over blind draws, {model}",
                label="times the expectation"),
        TablePart(
            part="overlaps",
            title="Units that circuits share",
            only={"status": "ok"},
            sort=("p",),
            top=40,
            columns=(
                Column("comparison"), Column("model"), Column("other"), Column("kind"), Column("other_kind", "and"),
                Column("circuit", "units"), Column("shared"), Column("expected", "blindly"),
                Column("halves_mean", "of different halves", "halves_low", "halves_high"),
                Column("rank_correlation", "ranks", absent="–"), Column("p", form="p"),
                Column("p_holm", "corrected", form="p", absent="–"),
            ),
        ),
        MapPart(part="transfer", rows="ablated", columns="kind", value="difference", each=("model",),
                only={"status": "ok"}, title="What {model} loses more than by random units", label="nats",
                scale="signed"),
        TablePart(
            part="transfer",
            title="Circuits put at their means",
            only={"status": "ok"},
            sort=("-difference",),
            top=24,
            columns=(
                Column("model"), Column("ablated", "circuit of"), Column("kind", "answers of"),
                Column("loss", "loss, nats", "loss_low", "loss_high"),
                Column("random", "random units", "random_low", "random_high"),
                Column("difference", "more", "difference_low", "difference_high", form="signed"),
                Column("p_holm", "p", form="p", absent="–"), Column("n_questions", "questions"),
            ),
        ),
        BarPart(part="profile", x="layer", y="effect_share", group="kind", each=("model", "site"),
                only={"status": "ok"}, title="Where effects are, {model}, {site}", label="share of effects"),
    ),
)  # fmt: skip


class _Read(NamedTuple):
    """What was read of a model of so many blocks: its sites and, on the questions of all models, effects of their
    channels, which are numbered from site to site."""

    number: int
    name: str
    n_layers: int
    at: Sequence[Place]
    read: ReadEffects

    @property
    def units(self) -> dict[str, slice]:
        """Which channels are those of a site, by its name."""
        ends = np.cumsum([place.channels for place in self.at]).tolist()
        return {place.name: slice(end - place.channels, end) for place, end in zip(self.at, ends, strict=True)}


Kinds = Mapping[str, Halved]
Rows = list[dict[str, Any]]


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """`Step.cost`: forwards and backwards, of the model and of shuffled ones, and forwards with units taken away."""
    settings: Settings = asked.settings
    return Effort(sum(lengths) * (4.0 * (1 + settings.shuffled_models) + 3.0 * (1 + settings.draws)), of_files(5), 5.0)


@step("universality", settings=Settings, seeded=True, check=check_sites, others=(...,), view=VIEW, cost=cost)
def universality(job: Job) -> Tables:
    """Which units kinds of questions and models share, and what a circuit of one kind does to the others."""
    settings: Settings = job.settings
    at = [places(job.model, job.layers, settings.sites), *(sites_of(other, settings.sites) for other in job.others)]
    names = names_of(job.models)
    having = [number for number, of_model in enumerate(at) if of_model]
    seeds = weight_seeds(job.seed, settings.shuffled_models)
    tables = {
        number: job.map(batch_effects, EFFECTS, {"sites": [place.name for place in at[number]],
                                                 "shuffled": [] if number else seeds}, model=number)
        for number in having
    }  # fmt: skip

    def read(number: int, ids: Sequence[str], draw: int = -1) -> ReadEffects | None:
        return read_effects(tables[number], [place.name for place in at[number]], ids, draw)

    finite = [found.ids if (found := read(n, [item.id for item in job.items])) else () for n in having]
    items = [item for item in job.items if all(item.id in ids for ids in finite)]
    ids = [item.id for item in items]
    reads = [_Read(n, names[n], job.models[n].n_layers, at[n], found)
             for n in having if (found := read(n, ids)) is not None]  # fmt: skip
    untrained = [read(0, ids, draw) for draw in range(len(seeds))]
    kinds, small = _kinds(items, settings, job.seed)
    missing: Rows = [{"status": NOT_APPLICABLE, "reason": reason} | about for about, reason in (
        *(({"kind": kind}, f"fewer than {settings.fewest} questions of this kind") for kind in small),
        *(({"model": names[n]}, "none of its blocks has one of the sites") for n in range(len(at))
          if n not in having),
    )]  # fmt: skip
    if not items:
        missing = [{"status": "model_nonfinite", "reason": "no question has finite scores in every model"}]
    profile, overlaps, transfer = list(missing), list(missing), list(missing)
    for one in reads if kinds else ():
        profile += _profile(one, kinds, settings.share)
        overlaps += _within(one, kinds, settings.share)
        transfer += _transfer(job, one, items, kinds)
    for one in reads[1:] if kinds else ():
        overlaps += _between(reads[0], one, "models", kinds, settings.share)
    for draw, effects in enumerate(untrained if kinds else ()):
        if effects is not None and effects.ids == tuple(ids):
            other = reads[0]._replace(read=effects)
            overlaps += [row | {"draw": draw} for row in
                         _between(reads[0], other, "shuffled weights", kinds, settings.share)]  # fmt: skip
    for rows in (overlaps, transfer):
        tested = [row for row in rows if row["status"] == "ok" and not row.get("control")]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_holm"] = p
    return {
        "profile": pa.Table.from_pylist(profile, schema=PROFILE_SCHEMA),
        "overlaps": pa.Table.from_pylist(overlaps, schema=OVERLAPS_SCHEMA),
        "transfer": pa.Table.from_pylist(transfer, schema=TRANSFER_SCHEMA),
    }


def _kinds(items: Sequence[Item], settings: Settings, seed: int) -> tuple[Kinds, list[str]]:
    """The kinds with enough questions, each with its halves, and those with too few."""
    named = [ALL if settings.by == "all" else item.kind or "of no known kind" for item in items]
    of = {kind: np.array([name == kind for name in named], bool) for kind in dict.fromkeys(named)}
    sides = [halves_by_group(items, _seed(seed, "split", split))[0] for split in range(settings.splits)]
    first = [np.array([item.id in side for item in items], bool) for side in sides]
    kinds: dict[str, Halved] = {}
    for kind, mask in of.items():
        splits = [(mask & half, mask & ~half) for half in first]
        if mask.sum() >= settings.fewest and all(side.any() for split in splits for side in split):
            kinds[kind] = Halved(mask, splits)
    return kinds, [kind for kind in of if kind not in kinds]


def _profile(one: _Read, kinds: Kinds, share: float) -> Rows:
    rows: Rows = []
    for kind, halved in kinds.items():
        mean = one.read.effects[halved.whole].mean(0)
        chosen = circuit(one.read.effects, halved.whole, circuit_size(share, len(mean)))
        total = float(np.abs(mean).sum())
        for place, units in zip(one.at, one.units.values(), strict=True):
            rows.append({
                "model": one.name, "kind": kind, "site": place.site, "layer": place.layer,
                "depth": depth(place.layer, one.n_layers), "units": place.channels,
                "in_circuit": int(((chosen >= units.start) & (chosen < units.stop)).sum()),
                "effect_share": float(np.abs(mean[units]).sum()) / total if total > 0 else None, "status": "ok",
            })  # fmt: skip
    return rows


def _within(one: _Read, kinds: Kinds, share: float) -> Rows:
    """Kinds against each other, and each against itself on other questions."""
    effects, names = one.read.effects, list(kinds)
    about = {"model": one.name, "other": one.name}
    rows = [
        about | {"comparison": "halves", "kind": kind, "other_kind": kind, "control": True}
        | _overlap_row(between_halves(effects, kinds[kind], share), kinds[kind], kinds[kind])
        for kind in names
    ]  # fmt: skip
    for i, kind in enumerate(names):
        for other in names[i + 1 :]:
            found = compared(effects, effects, kinds[kind], kinds[other], share)
            row = about | {"comparison": "kinds", "kind": kind, "other_kind": other, "control": False}
            rows.append(row | _overlap_row(found, kinds[kind], kinds[other]))
    return rows


def _between(first: _Read, second: _Read, comparison: str, kinds: Kinds, share: float) -> Rows:
    """Each kind in two models, of whose channels those are compared that have a partner."""
    about = {"comparison": comparison, "model": first.name, "other": second.name, "control": comparison != "models"}
    spans = [
        (first.units[a.name], second.units[b.name])
        for a, b in one_to_one(first.at, first.n_layers, second.at, second.n_layers)
    ]
    if not spans:
        reason = "the models have no site in common"
        return [about | {"status": NOT_APPLICABLE, "reason": reason}]
    ours, theirs = paired_units(first.read.last, second.read.last, spans)
    sides = first.read.effects[:, ours], second.read.effects[:, theirs]
    return [
        about | {"kind": kind, "other_kind": kind} | _overlap_row(compared(*sides, of, of, share), of, of)
        for kind, of in kinds.items()
    ]  # fmt: skip


def _overlap_row(found: Compared, one: Halved, other: Halved) -> dict[str, Any]:
    return {
        "units": found.found.n, "circuit": found.found.first, "shared": found.found.shared,
        "expected": found.found.expected, "ratio": found.found.shared / found.found.expected,
        "halves_mean": float(np.mean(found.halves)), "halves_low": min(found.halves), "halves_high": max(found.halves),
        "rank_correlation": found.rank_correlation, "p": found.found.p,
        "n_questions": int(min(one.whole.sum(), other.whole.sum())), "status": "ok",
    }  # fmt: skip


def _transfer(job: Job, one: _Read, items: Sequence[Item], kinds: Kinds) -> Rows:
    """What each kind loses by each kind's circuit, beside random units: every question by the circuit that was chosen
    on the half that it is not in."""
    settings: Settings = job.settings
    effects, units = one.read.effects, one.units
    size = circuit_size(settings.share, effects.shape[1])
    groups: list[dict[str, Any]] = []
    for kind, halved in kinds.items():
        for half in (0, 1):
            chosen = circuit(effects, halved.splits[0][half], size).tolist()
            rng = np.random.default_rng(_seed(job.seed, "random units", kind, half))
            drawn = [random_like(chosen, list(units.values()), rng) for _ in range(settings.draws)]
            for members in (chosen, *drawn):
                parts = [
                    {"site": name, "channels": channels, "mean": one.read.means[units[name]][channels].tolist()}
                    for name, channels in by_place(members, units).items()
                ]
                groups.append({"parts": parts, "asks": 1 - half})
    asked: list[list[str]] = [[], []]
    for halved in kinds.values():
        for half in (0, 1):
            asked[half] += [items[i].id for i in np.flatnonzero(halved.splits[0][half]).tolist()]
    table = job.map(batch_ablations, ABLATIONS, {"asked": asked, "groups": groups}, model=one.number)
    scores = {(row["id"], row["group"]): row["logprob"] for row in table.to_pylist()}
    rows: Rows = []
    for number, ablated in enumerate(kinds):
        for kind, halved in kinds.items():
            found: list[list[float]] = []
            kept: list[Item] = []
            for half in (0, 1):
                begin = (2 * number + 1 - half) * (1 + settings.draws)
                for i in np.flatnonzero(halved.splits[0][half]).tolist():
                    of_item = [scores[items[i].id, g] for g in (-1, *range(begin, begin + 1 + settings.draws))]
                    if None not in of_item:
                        found.append(of_item)
                        kept.append(items[i])
            about = {"model": one.name, "ablated": ablated, "kind": kind, "units": size, "n_questions": len(kept)}
            rows.append(about | _lost(np.array(found), [group_of(item) for item in kept], settings, job.seed))
    return rows


def _lost(scores: Floats, groups: Sequence[str], settings: Settings, seed: int) -> dict[str, Any]:
    """scores (n, 2 + draws): of the model as it is, without the circuit, without random units."""
    if not len(scores):
        return {"status": "model_nonfinite", "reason": "no answer has finite scores"}
    clean, cut, random = scores[:, 0], scores[:, 1], scores[:, 2:]
    how: dict[str, Any] = {"seed": seed, "confidence": settings.confidence, "n_resamples": settings.resamples,
                           "groups": groups, "shares": False}  # fmt: skip
    lost = paired_difference(clean, cut, **how)
    more = paired_difference(random.mean(1), cut, **how)
    losses = (clean[:, None] - random).mean(0)
    return {
        "loss": lost.mean, "loss_low": lost.low, "loss_high": lost.high, "random": float(losses.mean()),
        "random_low": float(losses.min()), "random_high": float(losses.max()), "difference": more.mean,
        "difference_low": more.low, "difference_high": more.high, "p": more.p, "status": "ok",
    }  # fmt: skip


def _seed(*parts: Any) -> int:
    return int(digest_of(list(parts))[:15], 16)
