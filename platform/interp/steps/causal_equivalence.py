"""Whether another model computes the same at the same depth: features that do alike, and activations that can stand in.

At a site of the analysed model and the one nearest in relative depth of another, on the same questions at one token:

*Features.* A channel's values over questions, and its effects on the answer (gradient times distance from its mean, the
first-order effect of taking it away), are matched one to one with those of the other model (`feature_matching`). Pairs
are made on one half of the questions and judged on the other, beside pairs made on mismatched questions. Features are
the channels themselves, the directions that vary most, or directions that are given.

*Activations.* A linear map is fitted on one half from the analysed model's activation to the other's; on the other half
the other model's activation is replaced by what the map makes of the analysed model's, and it answers. `share` says
what remains of its answer: 1 all, 0 as much as with the mean activation (`remaining`). Beside it: maps fitted on
mismatched questions, and maps from copies of the analysed model with shuffled weights. Both show what a linear map with
so many parameters carries by itself; only what stands apart from both is shared.

Each further model is compared with the first one, into which nothing is put: name them the other way round for the
other direction.

Parts: `features`, a row for each pair of sites, basis and way of matching; `pairs`, who is matched with whom;
`patching`, a row for each stand-in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from ...core.errors import UsageError
from ...scoring.statistics import Resampling, holm
from ..engine.columns import column
from ..engine.places import check_sites
from ..engine.step import Asked, Job, Sites, StepSettings, Tables, named_once, step
from ..engine.tensor_parts import StoredTensors
from ..engine.view import Beside, Column, LinePart, TablePart, View
from ..methods.equivalence_rows import (
    Rows,
    SidedSites,
    bases_of,
    feature_rows,
    stand_in_arguments,
    stand_in_rows,
    with_verdicts,
)  # fmt: skip
from ..methods.principal import check_directions
from ..methods.question_halves import halves_by_group
from ..methods.site_readings import (
    READINGS,
    STAND_INS,
    Position,
    Readings,
    batch_readings,
    batch_stand_ins,
    weight_seeds,
)
from ..methods.sites_across_models import Counterparts, counterparts, depth, names_of, thinned
from ..methods.stand_ins import ALIGNED, MEAN, MISMATCHED, RANDOM, stand_ins_of

FEWEST = 3  # questions in a half


class Settings(StepSettings):
    small = {"sites": ("mixer_out",), "blocks": 1, "maps": ("ridge",), "draws": 1, "chance_draws": 5, "resamples": 100}

    sites: Sites = ("mixer_out", "resid_post")
    """sites of each block with one value per token and channel; another model's of the same name are set against
    them"""
    blocks: int = Field(6, ge=1)
    """blocks that are looked at, at equal steps; all where there are fewer"""
    position: Position = "last"
    """the last token of the prompt, or the last one that states the answer (where it is stated)"""
    bases: Annotated[tuple[Literal["channels", "principal"], ...], AfterValidator(named_once)] = (
        "channels", "principal",
    )  # fmt: skip
    """features that are matched: channels, and the directions of largest variance"""
    directions: Path | None = None
    """safetensors with features that are matched too: orthonormal rows (k, C) named like 0/blocks.2.mixer_out, 0 being
    the analysed model, 1 the next one"""
    directions_sha256: str = Field("", validate_default=True)
    """of that file; set by itself"""
    principal: int = Field(32, ge=2)
    """of those at most"""
    maps: Annotated[tuple[Literal["ridge", "procrustes"], ...], AfterValidator(named_once)] = ("ridge", "procrustes")
    """linear maps from the analysed model's activations"""
    draws: int = Field(3, ge=1, le=100)
    """of mismatched questions and of shuffled weights, each"""
    chance_draws: int = Field(20, ge=2, le=10_000)
    """random orders behind the p-values of matched features"""
    resamples: int = Field(2000, ge=100, le=1_000_000)
    confidence: float = Field(0.95, gt=0.5, lt=1)

    @field_validator("directions_sha256")
    @classmethod
    def _digest(cls, value: str, info: ValidationInfo) -> str:
        """The content of the file is part of the settings, and so of the key of a result."""
        path = info.data.get("directions")
        if path is None:
            return ""
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from error


_PLACE = [
    column("other", pa.string(), "the model that is compared with the analysed one"),
    column("site", pa.string(), "site, relative to the block"),
    column("layer", pa.int32(), "block of the analysed model"),
    column("other_layer", pa.int32(), "the other model's block nearest in relative depth"),
    column("depth", pa.float64(), "middle of the block over the analysed model's blocks, 0 to 1"),
]
_STATUS = [
    column("n_questions", pa.int32(), "questions that judge"),
    column("status", pa.string(), "ok; not_applicable, see reason"),
    column("reason", pa.string(), "why there is no value"),
]
_FEATURES = [
    column("basis", pa.string(), "channels; principal: directions of largest variance; given"),
    column("by", pa.string(), "what is matched: value, the feature itself; effect, what it does to the answer"),
]
FEATURES_SCHEMA = pa.schema([
    *_PLACE, *_FEATURES,
    column("features", pa.int32(), "of the analysed model"),
    column("other_features", pa.int32(), "of the other one"),
    column("correlation", pa.float64(), "mean over pairs on the questions that judge; of values |r|, of effects r"),
    column("chance", pa.float64(), "the same of pairs made on mismatched questions, mean over draws"),
    column("chance_low", pa.float64(), "the smallest of the draws"),
    column("chance_high", pa.float64(), "the largest"),
    column("bar", pa.float64(), "95 % of chance pairs correlate less"),
    column("share", pa.float64(), "share of pairs above the bar; .05 for unrelated features"),
    column("agreement", pa.float64(), "share of features that values and effects pair alike"),
    column("p", pa.float64(), "one-sided, of the correlation being one more draw of chance"),
    column("p_holm", pa.float64(), "corrected for all rows of the table"),
    *_STATUS,
])  # fmt: skip
PAIRS_SCHEMA = pa.schema([
    *_PLACE, *_FEATURES,
    column("feature", pa.int32(), "of the analysed model"),
    column("other_feature", pa.int32(), "its partner"),
    column("similarity", pa.float64(), "correlation on the questions that pairs were made on"),
    column("held_out", pa.float64(), "on those that judge"),
    column("above", pa.bool_(), "whether that is above the bar"),
])  # fmt: skip
PATCHING_SCHEMA = pa.schema([
    *_PLACE,
    column("stand_in", pa.string(), f"what is put into the other model: {MEAN} activation; {ALIGNED}, a map of the "
           f"analysed model's; as controls the same map fitted on {MISMATCHED}, or from {RANDOM}"),
    column("map", pa.string(), "ridge or procrustes; null for the mean"),
    column("draw", pa.int32(), "of a control"),
    column("control", pa.bool_(), "whether the row is a control"),
    column("explained", pa.float64(), "share of the variance of the activations that it explains on these questions"),
    column("clean_logprob", pa.float64(), "the other model's mean log-probability of the answer as it is, nats"),
    column("clean_accuracy", pa.float64(), "its share of answers right as it is"),
    column("logprob", pa.float64(), "with the stand-in"),
    column("accuracy", pa.float64(), "with the stand-in"),
    column("cost", pa.float64(), "what the mean activation costs, nats: there is something to restore above 0"),
    column("cost_low", pa.float64(), "lower bound of its bootstrap interval over groups of questions"),
    column("cost_high", pa.float64(), "upper bound"),
    column("share", pa.float64(), "what remains of the log-probability: 1 all, 0 as with the mean; null where the mean "
           "costs nothing for certain"),
    column("share_low", pa.float64(), "lower bound of its bootstrap interval"),
    column("share_high", pa.float64(), "upper bound"),
    column("accuracy_share", pa.float64(), "what remains of the accuracy, in the same way"),
    column("accuracy_low", pa.float64(), "lower bound of its bootstrap interval"),
    column("accuracy_high", pa.float64(), "upper bound"),
    column("above_mismatched", pa.float64(), f"{ALIGNED}: log-probability less that of {MISMATCHED}, mean of draws"),
    column("above_random", pa.float64(), f"less that of {RANDOM}"),
    column("p", pa.float64(), "the larger p-value of the two differences"),
    column("p_holm", pa.float64(), "corrected for all aligned rows of the table"),
    column("verdict", pa.string(), "by p_holm; null where it could not be tested"),
    *_STATUS,
])  # fmt: skip


def check(asked: Asked) -> None:
    """`Step.check`: the analysed model has the sites, and given directions fit."""
    check_sites(asked)
    if asked.settings.directions is not None:
        given = StoredTensors(asked.settings.directions)
        sites = {site.name: site for site in asked.model.sites()}
        fitting = [name for name in given if name.startswith("0/") and name[2:] in sites]
        if not fitting:
            raise UsageError(f"{asked.settings.directions}: holds no directions of the analysed model, named like "
                             f"0/blocks.0.{asked.settings.sites[0]}")  # fmt: skip
        for name in fitting:
            check_directions(given[name].double().numpy(), int(sites[name[2:]].axes[0]), name)


_CONTROLS = ("other", "site", "layer", "map")
VIEW = View(
    "Does the other model compute the same?",
    "Features are matched on half of the questions and judged on the other half; a share of .05 is what unrelated "
    "features have. An activation of the other model is replaced by a linear map of the analysed model's: 1 keeps its "
    "answers whole, 0 is the mean activation. A map that carries no more than one fitted on mismatched questions or "
    "one from shuffled weights shows nothing shared.",
    (
        LinePart(part="patching", x="depth", y="share", low="share_low", high="share_high", group="site",
                 only={"stand_in": ALIGNED, "status": "ok"}, each=("other", "map"),
                 title="What remains of {other}'s answers, {map}", x_label="depth, from the first block to the last",
                 label="share of log-probability"),
        TablePart(
            part="patching",
            title="Activations that stand in",
            only={"stand_in": ALIGNED, "status": "ok"},
            columns=(
                Column("other", "into"), Column("site"), Column("layer"), Column("other_layer", "its layer"),
                Column("map"), Column("cost", "mean costs, nats", "cost_low", "cost_high"),
                Column("share", "remains", "share_low", "share_high", absent="nothing to restore"),
                Column("share", "mismatched questions", beside=Beside({"stand_in": MISMATCHED}, _CONTROLS), absent="–"),
                Column("share", "shuffled weights", beside=Beside({"stand_in": RANDOM}, _CONTROLS), absent="–"),
                Column("accuracy_share", "of accuracy", "accuracy_low", "accuracy_high", absent="–"),
                Column("p_holm", "p", form="p", absent="–"), Column("verdict", absent="–"),
                Column("n_questions", "questions"),
            ),
        ),
        TablePart(
            part="features",
            title="Features that do alike",
            only={"status": "ok"},
            columns=(
                Column("other"), Column("site"), Column("layer"), Column("other_layer", "its layer"), Column("basis"),
                Column("by", "matched by"), Column("correlation"), Column("chance", "by chance", "chance_low",
                "chance_high"), Column("share", "share above the bar"), Column("agreement", absent="–"),
                Column("p_holm", "p", form="p"),
            ),
        ),
    ),
)  # fmt: skip


@step(
    "causal_equivalence",
    settings=Settings,
    seeded=True,
    check=check,
    others=("another model", ...),
    view=VIEW,
)
def causal_equivalence(job: Job) -> Tables:
    """Features of models that do alike, and how much of a model's answers another one's activations keep."""
    settings: Settings = job.settings
    layers = thinned(job.layers, settings.blocks)
    found = [counterparts(job.model, other, layers, settings.sites) for other in job.others]
    ours = list(dict.fromkeys(each.first.name for of_other in found for each in of_other))
    seeds = weight_seeds(job.seed, settings.draws)
    first = _read(job, 0, ours, seeds)
    features: Rows = []
    pairs: Rows = []
    patching: Rows = []
    for number, pairing in enumerate(found, 1):
        sites = list(dict.fromkeys(each.second.name for each in pairing if each.second is not None))
        second = _read(job, number, sites, [])
        compared = [_side_by_side(job, number, each, first, second) for each in pairing]
        for each in compared:
            rows, who = _features(job, number, each)
            features += rows
            pairs += who
        patching += _patching(job, number, compared)
    for row, p in zip(features, holm([row.get("p") for row in features]), strict=True):
        row["p_holm"] = p
    return {
        "features": pa.Table.from_pylist(features, schema=FEATURES_SCHEMA),
        "pairs": pa.Table.from_pylist(pairs, schema=PAIRS_SCHEMA),
        "patching": pa.Table.from_pylist(with_verdicts(patching, settings.confidence), schema=PATCHING_SCHEMA),
    }


def _read(job: Job, number: int, sites: list[str], seeds: list[int]) -> Readings:
    arguments = {"position": job.settings.position, "sites": sites, "shuffled": seeds}
    return Readings.of(job.map(batch_readings, READINGS, arguments, model=number)) if sites else Readings({})


def _side_by_side(job: Job, number: int, pair: Counterparts, first: Readings, second: Readings) -> SidedSites:
    a, b = pair.first, pair.second
    about: dict[str, Any] = {
        "other": names_of(job.models)[number], "site": a.site, "layer": a.layer,
        "other_layer": None if b is None else b.layer, "depth": depth(a.layer, job.model.n_layers),
    }  # fmt: skip
    if b is None:
        return SidedSites(about, pair, pair.reason)
    known = first.ids(a.name) & second.ids(b.name)
    items = [item for item in job.items if item.id in known]
    ids = [item.id for item in items]
    made, _ = halves_by_group(items, job.seed)
    fit = np.array([id_ in made for id_ in ids], bool)
    if min(int(fit.sum()), int((~fit).sum())) < FEWEST:
        where = " whose answer is stated" if job.settings.position == "fact" else ""
        return SidedSites(about, pair, f"fewer than {2 * FEWEST} groups of questions{where} that both models read")
    return SidedSites(
        about, pair, "", items, fit,
        first.of_questions(ids, a.name, "values"), second.of_questions(ids, b.name, "values"),
        first.of_questions(ids, a.name, "gradient"), second.of_questions(ids, b.name, "gradient"),
        [first.of_questions(ids, a.name, "values", draw) for draw in range(job.settings.draws)
         if first.ids(a.name, draw) >= set(ids)],
        second.of_questions(ids, b.name, "logprob"), second.of_questions(ids, b.name, "correct"),
    )  # fmt: skip


def _features(job: Job, number: int, each: SidedSites) -> tuple[Rows, Rows]:
    settings: Settings = job.settings
    if each.reason:
        return [each.missing() | {"basis": basis} for basis in settings.bases], []
    given = None
    if settings.directions is not None and each.pair.second is not None:
        tensors = StoredTensors(settings.directions)
        names = f"0/{each.pair.first.name}", f"{number}/{each.pair.second.name}"
        if all(name in tensors for name in names):
            first, second = (
                check_directions(tensors[name].double().numpy(), side.shape[1], name)
                for name, side in zip(names, (each.x, each.y), strict=True)
            )
            given = first, second
    bases = bases_of(each, settings.bases, settings.principal, given)
    return feature_rows(each, bases, draws=settings.chance_draws, seed=job.seed)


def _patching(job: Job, number: int, compared: Sequence[SidedSites]) -> Rows:
    """Rows of one other model: all stand-ins at all sites in one round of forward passes."""
    settings: Settings = job.settings
    made = [
        (each, stand_ins_of(each.x, each.y, each.random, made_on=each.fit, maps=settings.maps, draws=settings.draws,
                            seed=job.seed))
        for each in compared if not each.reason
    ]  # fmt: skip
    scores: dict[tuple[int, str], tuple[float, bool]] = {}
    arguments = stand_in_arguments(made)
    if arguments is not None:
        arguments["position"] = settings.position
        table = job.map(batch_stand_ins, STAND_INS, arguments, model=number)
        scores = {
            (row["stand_in"], row["id"]): (row["logprob"], row["correct"])
            for row in table.to_pylist() if row["logprob"] is not None
        }  # fmt: skip
    rows: Rows = [each.missing() for each in compared if each.reason]
    how, begin = Resampling(job.seed, settings.confidence, settings.resamples), 0
    for each, stand_ins in made:
        rows += stand_in_rows(each, stand_ins, scores, begin, how)
        begin += len(stand_ins)
    return rows
