"""Probes: what simple functions read out of the stored activations, and whether the model uses what they read.

Every probe stands beside what would make it worthless: the same with labels exchanged, on the token's identity and
position alone (what needs no model), on the first principal components, and on the model with shuffled weights. What is
read is judged on documents that the probe has not seen, by nested cross-validation (`methods.probing`).

Reading is not using. For every target the table `ablation` has what the answer loses when the probe's direction is
projected out of its best place, beside random subspaces of the same dimension.

Parts: `scores`, a row for each place, target, probe and kind of features; `ablation`; tensors `directions`, unit
vectors (k, width) in the site's own coordinates by `PLACE/TARGET`, from a ridge probe of all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from ...core.errors import UsageError, suggest
from ...models.access.edits import ProjectOut
from ...scoring.statistics import bootstrap_mean, rank_p
from ..engine.answers import score_answers
from ..engine.batches import Batch, spread
from ..engine.columns import column
from ..engine.places import SITE_WORDS
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Job, StepOutput, StepSettings, named_once, step
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.activation_store import Store, Stored
from ..methods.probe_targets import TARGETS, target_of, token_and_position
from ..methods.probing import PROBES, Floats, Judged, Target, directions, judge, shuffled_scores

if TYPE_CHECKING:
    from ...models import LanguageModel

FEATURES = ("site", "shuffled weights", "principal components", "token and position")


class Settings(StepSettings):
    small = {"tokens": 40, "folds": 3, "draws": 1, "seeds": 1, "probes": ("ridge",), "ablated": 2, "subspaces": 1,
             "targets": ("in_fact", "distance")}  # fmt: skip

    sites: tuple[str, ...] = ("resid_post",)
    """of those that `collect` stores"""
    targets: tuple[str, ...] = tuple(TARGETS)
    """what is read: see `methods.probe_targets`"""
    probes: tuple[str, ...] = ("ridge",)
    """ridge, lasso, elastic_net, logistic (classes alone), mlp; logistic takes ten times as long as ridge"""
    tokens: int = Field(500, ge=20)
    """tokens that are read at most, for each target"""
    folds: int = Field(5, ge=3, le=20)
    draws: int = Field(3, ge=1, le=100)
    """of exchanged labels"""
    seeds: int = Field(3, ge=1, le=20)
    """of the folds, for ridge; other probes have one"""
    components: int = Field(8, ge=1)
    """principal components that stand beside the whole site"""
    ablated: int = Field(24, ge=1)
    """prompts on which directions are projected out"""
    subspaces: int = Field(19, ge=1, le=1000)
    """random subspaces of the same dimension; with fewer than 19 no p-value can be .05"""


def check(asked: Asked) -> None:
    """`Step.check`: targets and probes exist, and the sites are stored."""
    settings = asked.settings
    for named, known in ((settings.targets, TARGETS), (settings.probes, PROBES)):
        named_once(named)
        for name in named:
            if name not in known:
                raise UsageError(f"there is no {name!r}; {suggest(name, known)}")
    stored = {name.removesuffix("?").removeprefix("mixer.") for name in asked.upstream["collect"].sites}
    for site in settings.sites:
        if site.removeprefix("mixer.") not in stored:
            raise UsageError(f"site {site!r} is not stored; name it in collect.sites ({', '.join(sorted(stored))})")


_NUMBERS = [
    ("score", "R^2 of a number, balanced accuracy of a class, on documents that were not trained on; mean over seeds"),
    ("low", "lower bound of its 95 % interval, documents resampled whole"),
    ("high", "upper bound"),
    ("spread", "standard deviation over the seeds of the folds; null for one seed"),
    ("chance", "score of knowing nothing: 0 for a number, one over the number of classes"),
    ("shuffled", "mean score with labels exchanged among tokens"),
    ("shuffled_most", "the best of these draws"),
    ("selectivity", "score less the larger of `shuffled` and `chance`"),
    ("over_token", "score less that of token and position alone, by the same probe"),
    ("strength", "penalty that the inner folds chose, median"),
]
SCORES_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block; null for token and position alone"),
    column("site", pa.string(), "site of the block; null for token and position alone"),
    column("target", pa.string(), "what is read"),
    column("kind", pa.string(), "number or class"),
    column("probe", pa.string(), "ridge, lasso, elastic_net, logistic, mlp"),
    column("features", pa.string(), "read from what: " + ", ".join(FEATURES)),
    column("n", pa.int32(), "tokens"),
    column("groups", pa.int32(), "documents or entities"),
    *(column(name, pa.float64(), meaning) for name, meaning in _NUMBERS),
    column("reason", pa.string(), "why there is no score; null where there is one"),
    column("status", pa.string(), "ok; not_applicable"),
])  # fmt: skip
ABLATION_SCHEMA = pa.schema([
    column("target", pa.string(), "what the direction reads"),
    column("layer", pa.int32(), "block where the ridge probe reads it best"),
    column("site", pa.string(), "site of the block"),
    column("class", pa.string(), "prompts of this class alone, where the target is one of prompts; null: all"),
    column("dimension", pa.int32(), "of the subspace that is projected out"),
    column("n", pa.int32(), "prompts"),
    column("effect", pa.float64(), "mean change of the answer's log-probability, nats, projected out at every token"),
    column("low", pa.float64(), "lower bound of its 95 % interval over prompts, groups resampled whole"),
    column("high", pa.float64(), "upper bound"),
    column("random", pa.float64(), "mean effect of random subspaces of this dimension"),
    column("random_most", pa.float64(), "the largest loss among them"),
    column("p", pa.float64(), "one-sided: that its loss is one more draw of theirs"),
    column("status", pa.string(), "ok; not_applicable; model_nonfinite"),
])  # fmt: skip
BATCH_SCHEMA = pa.schema([
    column("id", pa.string(), "the question"),
    column("subspace", pa.int32(), "number of what was projected out; -1 for nothing"),
    column("logprob", pa.float64(), "of the answer, nats; null where it is not finite"),
])  # fmt: skip

VIEW = View(
    "What probes read",
    "A site holds what its probe reads better than the token and its position alone say, than the model with shuffled "
    "weights, and than exchanged labels. Reading is not using: the last table says what the answer loses without the "
    "direction, beside random subspaces of its dimension.",
    (
        LinePart(part="scores", x="layer", y="score", low="low", high="high", group="features", most=12,
                 each=("target", "site"), only={"status": "ok", "probe": "ridge"}, title="{target}, read at {site}",
                 label="score", words=SITE_WORDS),
        TablePart(
            part="scores", title="Scores", only={"status": "ok"}, sort=("target", "probe", "-score"), folded=True,
            columns=(
                Column("target"), Column("probe"), Column("features"), Column("layer", absent="–"),
                Column("site", absent="–"), Column("n"), Column("score", "score", "low", "high"), Column("chance"),
                Column("shuffled"), Column("selectivity", form="signed"),
                Column("over_token", form="signed", absent="–"),
            ),
        ),
        TablePart(
            part="ablation", title="What the answer loses without the direction", only={"status": "ok"},
            columns=(
                Column("target"), Column("class", absent="all"), Column("layer"), Column("site"), Column("dimension"),
                Column("n"), Column("effect", "nats", "low", "high", form="signed"),
                Column("random", "random subspaces", form="signed"), Column("p", form="p"),
            ),
        ),
    ),
)  # fmt: skip


class _Best(NamedTuple):
    place: Stored
    score: float
    vectors: Floats


@step("probes", version=1, needs=("collect",), settings=Settings, seeded=True, check=check, view=VIEW)
def probes(job: Job) -> StepOutput:
    """What simple readers find in the stored activations, beside controls, and whether the model uses it."""
    settings, store = job.settings, Store.of(job)
    baseline = Store.of(job, "shuffled") if _has_baseline(job) else None
    places = [p for p in store.places if p.site.removeprefix("mixer.") in _bare(settings.sites)]
    rows: list[dict[str, Any]] = []
    vectors: dict[str, torch.Tensor] = {}
    best: dict[str, tuple[Target, _Best]] = {}
    for name in settings.targets:
        target = target_of(store.tokens, name, settings.tokens) if len(store) else "no token is stored"
        if isinstance(target, str):
            rows.append({"target": name, "kind": TARGETS[name][0], "reason": target, "status": NOT_APPLICABLE})
            continue
        alone = token_and_position(store.tokens, target.rows)
        told = {probe: _row(alone, target, probe, FEATURES[3], settings, job.seed) for probe in _probes(target, job)}
        rows += told.values()
        for place in places:
            x = store.values(place, target.rows).double().numpy()
            features = {FEATURES[0]: x, FEATURES[2]: _components(x, settings.components)}
            if baseline is not None:
                its = baseline.place(place.layer, place.site)
                features[FEATURES[1]] = baseline.values(its, target.rows).double().numpy()
            for probe in _probes(target, job):
                known = told[probe]["score"]
                for what, values in features.items():
                    row = _row(values, target, probe, what, settings, job.seed)
                    rows.append(row | {"layer": place.layer, "site": place.site, "over_token": row["score"] - known})
                    if (what, probe) == (FEATURES[0], settings.probes[0]):
                        found = _Best(place, row["score"], directions(x, target, row["strength"]))
                        vectors[f"{place.name}/{name}"] = torch.from_numpy(found.vectors).float()
                        if name not in best or row["score"] > best[name][1].score:
                            best[name] = (target, found)
    ablation = _ablation(job, store, best) if best else []
    tables = {
        "scores": pa.Table.from_pylist(rows, schema=SCORES_SCHEMA),
        "ablation": pa.Table.from_pylist(ablation, schema=ABLATION_SCHEMA),
    }
    return StepOutput(tables, {"directions": vectors} if vectors else {})


def _row(x: Floats, target: Target, probe: str, features: str, settings: Settings, seed: int) -> dict[str, Any]:
    seeds = range(seed, seed + (settings.seeds if probe == "ridge" else 1))
    judged: Judged = judge(x, target, probe, folds=settings.folds, seeds=tuple(seeds))
    mixed = shuffled_scores(
        x, target, probe, strength=judged.strength, folds=settings.folds, draws=settings.draws, seed=seed
    )
    return {
        "target": target.name, "kind": target.kind, "probe": probe, "features": features, "n": len(target.rows),
        "groups": len(np.unique(target.groups)), "score": judged.score, "low": judged.low, "high": judged.high,
        "spread": judged.spread, "chance": target.chance, "shuffled": float(np.mean(mixed)),
        "shuffled_most": float(np.max(mixed)),
        "selectivity": judged.score - max(float(np.mean(mixed)), target.chance),
        "strength": judged.strength, "status": "ok",
    }  # fmt: skip


def _probes(target: Target, job: Job) -> Sequence[str]:
    """Those that fit: logistic regression is of classes."""
    return [name for name in job.settings.probes if target.kind == "class" or name != "logistic"]


def _components(x: Floats, count: int) -> Floats:
    """The first principal components of x (n, d), which know no label."""
    _, _, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return x @ vt[:count].T


def _has_baseline(job: Job) -> bool:
    return "shuffled" in job.upstream["collect"]["places"]["weights"].to_pylist()


def _bare(sites: Sequence[str]) -> set[str]:
    return {site.removesuffix("?").removeprefix("mixer.") for site in sites}


def _ablation(job: Job, store: Store, best: Mapping[str, tuple[Target, _Best]]) -> list[dict[str, Any]]:
    """Rows of `ABLATION_SCHEMA`: the direction of each target's best place, and random subspaces there."""
    draws = job.settings.subspaces
    subspaces: list[dict[str, Any]] = []
    for name, (_, found) in best.items():
        rng = np.random.default_rng([job.seed, len(subspaces)])
        k, d = found.vectors.shape
        for vectors in [found.vectors, *(np.linalg.qr(rng.standard_normal((d, k)))[0].T for _ in range(draws))]:
            subspaces.append({"target": name, "place": found.place.name, "shape": list(found.place.shape),
                              "vectors": np.round(vectors, 6).tolist()})  # fmt: skip
    asked = sorted(item.id for item in spread(job.items, job.settings.ablated))
    table = job.map(batch_projected, BATCH_SCHEMA, {"subspaces": subspaces, "asked": asked})
    lost: dict[int, dict[str, float | None]] = {}
    for row in table.to_pylist():
        lost.setdefault(row["subspace"], {})[row["id"]] = row["logprob"]
    clean = lost.get(-1, {})
    group = {item.id: item.group or item.id for item in job.items}
    rows: list[dict[str, Any]] = []
    for number, (name, (target, found)) in enumerate(best.items()):
        first = number * (1 + draws)
        effects = np.array([[_difference(lost.get(i, {}).get(q), clean[q]) for q in asked] for i in
                            range(first, first + 1 + draws)]).reshape(1 + draws, len(asked))  # fmt: skip
        about = {"target": name, "layer": found.place.layer, "site": found.place.site,
                 "dimension": len(found.vectors)}  # fmt: skip
        by_class = _classes(store, target, asked)
        for word, members in by_class.items():
            chosen = np.array([q in members for q in asked]) & np.isfinite(effects).all(0)
            if not chosen.any():
                rows.append(about | {"class": word, "status": "model_nonfinite" if members else NOT_APPLICABLE})
                continue
            mine, others = effects[0, chosen], effects[1:, chosen].mean(1)
            groups = [group[q] for q, kept in zip(asked, chosen, strict=True) if kept]
            interval = bootstrap_mean(mine, seed=job.seed, n_resamples=2000, groups=groups)
            rows.append(about | {
                "class": word, "n": int(chosen.sum()), "effect": float(mine.mean()), "low": interval.low,
                "high": interval.high, "random": float(others.mean()), "random_most": float(others.min()),
                "p": rank_p(-float(mine.mean()), -others), "status": "ok",
            })  # fmt: skip
    return rows


def _classes(store: Store, target: Target, asked: Sequence[str]) -> dict[str | None, set[str]]:
    """Prompts by their class, after all of them; only where the target is one of prompts."""
    whole: dict[str | None, set[str]] = {None: set(asked)}
    if target.kind == "class" and TARGETS[target.name][1]:
        ids = store.tokens["question_id"].take(pa.array(target.rows)).to_pylist()
        for id_, code in zip(ids, target.values.astype(int).tolist(), strict=True):
            if id_ in whole[None]:
                whole.setdefault(target.classes[code], set()).add(id_)
    return whole


def _difference(value: float | None, clean: float | None) -> float:
    return float("nan") if value is None or clean is None else value - clean


@torch.no_grad()
def batch_projected(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The answers' log-probabilities with nothing and with each subspace projected out at every token."""
    wanted = set(arguments["asked"])
    items = [item for item in batch.items if item.id in wanted]
    rows: list[dict[str, Any]] = []
    if items:
        answered = Batch(items, batch.device).answered()
        for number, subspace in enumerate([None, *arguments["subspaces"]], -1):
            edits = [] if subspace is None else _edits(subspace)
            with model.edit(*edits):
                scores = score_answers(model(answered.tokens, answered.mask), answered)
            for item, value, finite in zip(items, scores.logprob.tolist(), scores.finite.tolist(), strict=True):
                rows.append({"id": item.id, "subspace": number, "logprob": value if finite else None})
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _edits(subspace: Mapping[str, Any]) -> list[ProjectOut]:
    """One for each of the orthonormal vectors."""
    vectors = torch.linalg.qr(torch.tensor(subspace["vectors"], dtype=torch.float64).T)[0].T
    return [ProjectOut(subspace["place"], direction=v.reshape(subspace["shape"])) for v in vectors]
