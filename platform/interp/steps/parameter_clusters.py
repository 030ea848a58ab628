"""Components that belong together: clusters of what `spd` found, what they are for, and what their loss costs.

The most important components that are alive are clustered by co-importance, at which tokens they are needed
(`methods.co_importance`). Then, for clusters: in which kind of question they are important, with a p-value of kinds
exchanged between prompts; how the answer's log-probability changes when all of a cluster is taken away, beside random
sets of as many components (`against_random`; p-values after Holm); whether two ablations add up; and the slope of the
loss in a factor of each component, its part in the flow of gradients. A cluster that costs more than random sets is
called a bottleneck: it carries what answers need. Clusters are chosen without looking at answers, but on the same
prompts.

Parts: `clusters`; `components`, who is in which; `interactions` of pairs of clusters and of the most important
components; `co_importance` of pairs, for the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from ...scoring.statistics import bootstrap_mean, groups_differ_p, holm
from ..engine.batches import Batch, spread
from ..engine.effort import mean_length, of_files
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.tensor_text import from_text, to_text
from ..engine.view import Column, MapPart, TablePart, View
from ..methods.against_random import ABOVE, AgainstRandom, against_random, verdicts
from ..methods.cluster_prompts import ablation_losses, mask_slopes, token_importances
from ..methods.cluster_schema import CLUSTERS, COMPONENTS, INTERACTIONS, NOTHING, PAIRS
from ..methods.co_importance import (
    co_importance,
    cohesion,
    importance_clusters,
    interaction,
    random_sets,
    specialisation,
)
from ..methods.model_matrices import chosen_places
from ..methods.prompts_function import PromptsFunction, still

if TYPE_CHECKING:
    from ...models import LanguageModel

_SHOWN = 24  # components in the picture of co-importance


class Settings(StepSettings):
    small = {
        "components": 6,
        "clusters": 1,
        "pairs": 2,
        "draws": 1,
        "prompts": 2,
        "resamples": 100,
        "permutations": 100,
    }

    components: int = Field(48, ge=2)
    """the most important components that are clustered"""
    co_importance: float = Field(0.5, gt=0, le=1)
    """least mean co-importance between the members of clusters that are joined"""
    clusters: int = Field(4, ge=1)
    """clusters that are taken away, those of the largest importance"""
    pairs: int = Field(4, ge=2)
    """components of which each pair is taken away, the most important ones"""
    draws: int = Field(6, ge=1)
    """random sets of as many components for each of these clusters"""
    prompts: int = Field(48, ge=2)
    """prompts on which components are taken away, spread over all"""
    resamples: int = Field(2000, ge=100)
    """of the bootstrap, and random signs"""
    permutations: int = Field(2000, ge=100)
    """kinds exchanged between prompts"""
    confidence: float = Field(0.95, gt=0, lt=1)


PROFILE_SCHEMA = pa.schema([
    ("question_id", pa.string()), ("kind", pa.string()), ("tokens", pa.int32()),
    ("importances", pa.list_(pa.float32())), ("slopes", pa.list_(pa.float64())), ("status", pa.string()),
])  # fmt: skip
LOSS_SCHEMA = pa.schema([("question_id", pa.string()), ("losses", pa.list_(pa.float64())), ("status", pa.string())])

VIEW = View(
    "Clusters of components, and what their loss costs",
    "Components that are needed at the same tokens. A cluster stands out only where the verdict is that it costs more "
    "than random sets of as many components. An interaction below 0 says that two do the same damage, as links of a "
    "chain do; above 0 that each makes up for the other.",
    (
        TablePart(part="clusters", title="Clusters that were taken away", only={"status": "ok"}, top=30, columns=(
            Column("cluster"), Column("size", "components"), Column("matrices"), Column("importance"),
            Column("cohesion", absent="–"), Column("top_kind", "most in"), Column("specialisation", absent="–"),
            Column("p_kinds_holm", "p of kinds", form="p", absent="–"),
            Column("effect", "log-probability, nats", "low", "high", form="signed", absent=""),
            Column("random_effect", "random sets", form="signed", absent=""),
            Column("p_holm", "p", form="p", absent=""), Column("verdict", absent=""),
            Column("slope", form="signed"), Column("flow_share", "share of gradients"),
        )),
        MapPart(part="co_importance", rows="first", columns="second", value="co_importance",
                title="Needed at the same tokens", label="co-importance"),
        TablePart(part="interactions", title="Whether two ablations add up", only={"status": "ok"},
                  sort=("of", "-interaction"), columns=(
                      Column("of"), Column("first"), Column("second"), Column("loss_first", form="signed"),
                      Column("loss_second", form="signed"), Column("loss_both", form="signed"),
                      Column("interaction", "interaction", "low", "high", form="signed"),
                  )),
    ),
)  # fmt: skip

Rows = list[dict[str, Any]]


class Member(NamedTuple):
    """A component: of which matrix, and its number there."""

    layer: int | None
    matrix: str
    component: int

    @property
    def place(self) -> str:
        """As `model_matrices.Place.name`."""
        return self.matrix if self.layer is None else f"{self.layer}.{self.matrix}"

    @property
    def label(self) -> str:
        """For tables."""
        return f"{self.place}/{self.component}"


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """`Step.cost`: prompts without each cluster, pair and draw."""
    settings: Settings = asked.settings
    prompts = min(settings.prompts, len(lengths)) * mean_length(lengths)
    without = settings.clusters * (1 + settings.draws) + settings.pairs * (settings.pairs - 1) / 2
    return Effort(1.5 * without * prompts, of_files(5))


@step("parameter_clusters", needs=("spd",), settings=Settings, seeded=True, view=VIEW, cost=cost)
def parameter_clusters(job: Job) -> Tables:
    """Clusters of SPD's components by co-importance: specialisation, ablations, interactions, gradient flow."""
    settings: Settings = job.settings
    alive = [r for r in job.upstream["spd"]["components"].to_pylist() if r["alive"]]
    alive.sort(key=lambda r: -r["importance"])
    kept = sorted(alive[: settings.components], key=lambda r: (-1 if r["layer"] is None else r["layer"], r["matrix"]))
    members = [Member(r["layer"], r["matrix"], r["component"]) for r in kept]
    if not members:
        return _absent(NOT_APPLICABLE, NOTHING)
    sets = _sets(members)
    members = [m for name in sets for m in members if m.place == name]  # in the order of batch functions
    matrices = job.upstream["spd"]["matrices"].to_pylist()
    arguments: dict[str, Any] = {
        "blocks": sorted({r["layer"] for r in matrices if r["layer"] is not None}),
        "matrices": list(dict.fromkeys(r["matrix"] for r in matrices if r["matrix"] is not None)),
        "tensors": to_text(job.upstream_tensors["spd"]["model-0"]), "chosen": sets,
    }  # fmt: skip
    seen = [r for r in job.map(batch_profile, PROFILE_SCHEMA, arguments).to_pylist() if r["status"] == "ok"]
    if not seen:
        return _absent("model_nonfinite", "no prompt has finite scores")
    g = np.concatenate([np.array(r["importances"], np.float64).reshape(r["tokens"], len(members)) for r in seen])
    together = co_importance(g)
    clusters = importance_clusters(together, settings.co_importance)
    means = g.mean(0)
    clusters.sort(key=lambda of: -float(means[of].sum()))
    chosen = clusters[: settings.clusters]
    singles = [[i] for i in np.argsort(-means, kind="stable")[: settings.pairs].tolist()]
    random = [
        random_sets(len(of), len(members), settings.draws, of, job.seed + number) for number, of in enumerate(chosen)
    ]
    pairs = [*combinations(range(len(chosen)), 2)], [*combinations(range(len(singles)), 2)]
    wanted = [[], *chosen, *singles, *(draw for draws in random for draw in draws)]
    wanted += [sorted({*chosen[i], *chosen[j]}) for i, j in pairs[0]] + [singles[i] + singles[j] for i, j in pairs[1]]
    different = list({tuple(sorted(of)): None for of in wanted})
    losses = _losses(job, arguments, members, different)
    if not losses:
        return _absent("model_nonfinite", "no prompt has finite scores")
    rows = _cluster_rows(job, members, clusters, chosen, random, seen, together, means, losses)
    number = {i: n for n, of in enumerate(clusters) for i in of}
    by_prompt = np.stack([_mean_importance(r, len(members)) for r in seen])
    slopes = np.array([r["slopes"] for r in seen])
    kinds = [r["kind"] or "" for r in seen]
    components: Rows = []
    for i, member in enumerate(members):
        special = specialisation(by_prompt[:, i].tolist(), kinds)
        components.append(member._asdict() | {
            "cluster": number[i], "importance": float(means[i]), "top_kind": special.kind or None,
            "specialisation": special.contrast, "slope": float(slopes[:, i].mean()),
            "flow": float(np.abs(slopes[:, i]).mean()), "status": "ok",
        })  # fmt: skip
    inter = _interactions(job, "clusters", [(str(n), of) for n, of in enumerate(chosen)], losses)
    inter += _interactions(job, "components", [(members[of[0]].label, of) for of in singles], losses)
    shown = [i for of in clusters for i in of][:_SHOWN]
    cells = [
        {"first": members[i].label, "second": members[j].label, "co_importance": float(together[i, j])}
        for i in shown
        for j in shown
    ]
    return {
        "clusters": pa.Table.from_pylist(rows, schema=CLUSTERS),
        "components": pa.Table.from_pylist(components, schema=COMPONENTS),
        "interactions": pa.Table.from_pylist(inter, schema=INTERACTIONS),
        "co_importance": pa.Table.from_pylist(cells, schema=PAIRS),
    }


def _absent(status: str, reason: str) -> Tables:
    schemas = {"clusters": CLUSTERS, "components": COMPONENTS, "interactions": INTERACTIONS}
    tables = {
        name: pa.Table.from_pylist([{"status": status, "reason": reason}], schema=schema)
        for name, schema in schemas.items()
    }
    return tables | {"co_importance": PAIRS.empty_table()}


def _sets(members: Sequence[Member]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for member in members:
        found.setdefault(member.place, []).append(member.component)
    return found


def _function(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> tuple[PromptsFunction, Any]:
    places = chosen_places(model, arguments["blocks"], arguments["matrices"])
    parameters = {name: t.to(model.device) for name, t in from_text(arguments["tensors"]).items()}
    return PromptsFunction(model, places, batch.items), parameters


def batch_profile(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Of each prompt of one batch: importances of the chosen components at its tokens, and slopes of its loss."""
    with still(model):
        function, parameters = _function(model, batch, arguments)
        found = token_importances(function, parameters, arguments["chosen"])
        slopes = mask_slopes(function, parameters, batch, arguments["chosen"])
    rows: Rows = []
    for item, g, loss, slope in zip(batch.items, found, slopes.loss, slopes.slope, strict=True):
        about = {"question_id": item.id, "kind": item.kind}
        if not bool(loss.isfinite()) or not bool(g.isfinite().all()):
            rows.append(about | {"status": "model_nonfinite"})
            continue
        rows.append(about | {"tokens": len(g), "importances": g.flatten().float().cpu().numpy(),
                             "slopes": slope.double().tolist(), "status": "ok"})  # fmt: skip
    return pa.Table.from_pylist(rows, schema=PROFILE_SCHEMA)


def batch_ablations(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Of each wanted prompt of one batch: its loss without each of the sets of components."""
    wanted = [item for item in batch.items if item.id in set(arguments["prompts"])]
    if not wanted:
        return LOSS_SCHEMA.empty_table()
    part = Batch(wanted, batch.device)
    with still(model):
        function, parameters = _function(model, part, arguments)
        losses = [ablation_losses(function, parameters, part, of).double().tolist() for of in arguments["sets"]]
    rows: Rows = []
    for number, item in enumerate(wanted):
        own = [of[number] for of in losses]
        fine = all(np.isfinite(own))
        rows.append(
            {"question_id": item.id, "losses": own if fine else None, "status": "ok" if fine else "model_nonfinite"}
        )
    return pa.Table.from_pylist(rows, schema=LOSS_SCHEMA)


def _losses(
    job: Job, arguments: Mapping[str, Any], members: Sequence[Member], different: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], np.ndarray]:
    """Set of members -> loss of each prompt without them; empty where no prompt is finite."""
    prompts = [item.id for item in spread(job.items, job.settings.prompts)]
    sets = [_sets([members[i] for i in of]) for of in different]
    rows = job.map(batch_ablations, LOSS_SCHEMA, {**arguments, "sets": sets, "prompts": prompts}).to_pylist()
    found = np.array([row["losses"] for row in rows if row["status"] == "ok"])
    return {of: found[:, n] for n, of in enumerate(different)} if len(found) else {}


def _mean_importance(row: Mapping[str, Any], count: int) -> np.ndarray:
    return np.array(row["importances"], np.float64).reshape(row["tokens"], count).mean(0)


def _cluster_rows(
    job: Job,
    members: Sequence[Member],
    clusters: Sequence[Sequence[int]],
    chosen: Sequence[Sequence[int]],
    random: Sequence[Sequence[Sequence[int]]],
    seen: Sequence[Mapping[str, Any]],
    together: np.ndarray,
    means: np.ndarray,
    losses: Mapping[tuple[int, ...], np.ndarray],
) -> Rows:
    settings: Settings = job.settings
    by_prompt = np.stack([_mean_importance(row, len(members)) for row in seen])
    slopes = np.array([row["slopes"] for row in seen])
    flows = np.abs(slopes).mean(0)
    kinds = [row["kind"] or "" for row in seen]
    rows: Rows = []
    for number, of in enumerate(clusters):
        each = by_prompt[:, of].sum(1)
        special = specialisation(each.tolist(), kinds)
        counts = {name: len(numbers) for name, numbers in _sets([members[i] for i in of]).items()}
        rows.append({
            "cluster": number, "size": len(of), "matrices": ", ".join(f"{name}: {n}" for name, n in counts.items()),
            "importance": float(means[of].sum()), "cohesion": cohesion(together, of), "top_kind": special.kind or None,
            "specialisation": special.contrast,
            "p_kinds": groups_differ_p(kinds, each, seed=job.seed, n_draws=settings.permutations),
            "slope": float(slopes[:, of].sum(1).mean()), "flow": float(flows[of].sum()),
            "flow_share": float(flows[of].sum() / flows.sum()) if flows.sum() > 0 else None, "status": "ok",
        })  # fmt: skip
    for row, p in zip(rows, holm([row["p_kinds"] for row in rows]), strict=True):
        row["p_kinds_holm"] = p
    clean = losses[()]
    tests: list[AgainstRandom] = []
    for row, of, draws in zip(rows, chosen, random, strict=False):
        effect = clean - losses[tuple(sorted(of))]
        others = np.stack([clean - losses[tuple(sorted(draw))] for draw in draws])
        test = against_random(
            effect, others, seed=job.seed, confidence=settings.confidence, n_resamples=settings.resamples
        )
        interval = bootstrap_mean(effect, seed=job.seed, confidence=settings.confidence, n_resamples=settings.resamples)
        tests.append(test)
        row |= {
            "effect": float(effect.mean()), "low": interval.low, "high": interval.high,
            "random_effect": float(others.mean()), "difference": test.difference,
            "difference_low": test.low, "difference_high": test.high,
            "p_prompts": test.p_prompts, "p_draws": test.p_draws, "n_prompts": len(effect),
        }  # fmt: skip
    corrected = holm([test.p for test in tests])
    for row, p, verdict in zip(rows, corrected, verdicts(tests, corrected, settings.confidence), strict=False):
        row |= {"p_holm": p, "verdict": verdict, "bottleneck": None if verdict is None else verdict == ABOVE}
    return rows


def _interactions(
    job: Job, of: str, named: Sequence[tuple[str, Sequence[int]]], losses: Mapping[tuple[int, ...], np.ndarray]
) -> Rows:
    clean = losses[()]
    rows: Rows = []
    for (first, one), (second, other) in combinations(named, 2):
        a, b = losses[tuple(sorted(one))], losses[tuple(sorted(other))]
        both = losses[tuple(sorted({*one, *other}))]
        each = interaction(both, a, b, clean)
        settings: Settings = job.settings
        interval = bootstrap_mean(each, seed=job.seed, confidence=settings.confidence, n_resamples=settings.resamples)
        rows.append({
            "of": of, "first": first, "second": second, "loss_first": float((a - clean).mean()),
            "loss_second": float((b - clean).mean()), "loss_both": float((both - clean).mean()),
            "interaction": float(each.mean()), "low": interval.low, "high": interval.high, "n_prompts": len(each),
            "status": "ok",
        })  # fmt: skip
    if not rows:
        reason = "a single one has no pairs"
        rows.append({"of": of, "status": NOT_APPLICABLE, "reason": reason})
    return rows
