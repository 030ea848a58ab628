"""Stochastic parameter decomposition: matrices of the model as sums of rank-one components of which a token needs few.

A matrix W becomes U V with more components than it has rank, trained until the model says the same whatever share of
the components is taken away that their predicted importances allow (`methods.stochastic_masks`, arXiv 2506.20790). So a
component is what the model needs together, and its importances say where. Only the chosen matrices of the chosen blocks
are decomposed; the part `parameters` lists what is and what stays whole, and why.

Trained with several seeds, because what one run finds may be its own doing: `agreement` compares them, beside random
directions. And trained on a model whose weights are in a random order: what is found there too is no finding.

Parts: `matrices`, how well each run does and how sparse it is; `components`, those of the first run; `training`, the
loss; `parameters`. Tensors: for each run of the model U, V and the networks that predict importances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from ...core.errors import UsageError
from ...models.shuffled import shuffled
from ..engine.batches import Batch
from ..engine.columns import ranks
from ..engine.effort import mean_length, of_files
from ..engine.fitting import Fitted, Minibatch, Schedule, fit, one_thread
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepOutput, StepSettings, Tensors, step
from ..engine.tensor_text import from_text, to_text
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.matrix_function import divergence_of_logits
from ..methods.model_matrices import Place, chosen_places, matrix_of
from ..methods.prompts_function import PromptsFunction, still
from ..methods.rank_one import RankOnes, cosines, random_ones, squared_error
from ..methods.spd_prompts import USED, on_prompts
from ..methods.spd_schema import COMPONENTS, CONTROL, MATRICES, MODEL, NOTHING, PARAMETERS, TRAINING, parameter_rows
from ..methods.stochastic_masks import Losses, ones_of, parts_of_loss, start_components, total

if TYPE_CHECKING:
    from ...models import LanguageModel

_CURVE = 50  # points of the loss's curve


class Settings(StepSettings):
    small = {"steps": 2, "seeds": 1, "prompts_at_once": 2, "hidden": 2, "overcomplete": 0.25, "control": False}

    blocks: tuple[int, ...] | None = None
    """blocks whose matrices are decomposed, among those looked at; default one in the middle that has a projection"""
    matrices: tuple[str, ...] | None = None
    """paths of layers in a block or their ends (in_proj, conv1d), or embedding; with ?: where it is there; default the
    first and the last projection of the mixer"""
    overcomplete: float = Field(1.25, gt=0)
    """components of a matrix, as a multiple of its smaller side; below 1 they cannot sum up to the matrix"""
    hidden: int = Field(8, ge=1)
    """units of the network that predicts a component's importance"""
    steps: int = Field(120, ge=1)
    """of training, for each run"""
    prompts_at_once: int = Field(4, ge=1)
    """prompts of one step of training"""
    learning_rate: float = Field(2e-3, gt=0)
    faithfulness: float = Field(10.0, ge=0)
    """factor of the squared error of the sums, relative to the weights' own square"""
    stochastic: float = Field(1.0, ge=0)
    """factor of the divergence with all matrices masked at random, nats"""
    layerwise: float = Field(0.0, ge=0)
    """factor of the divergence with one matrix masked at a time; one pass more for each matrix"""
    minimality: float = Field(1e-4, gt=0)
    """factor of the penalty on importance"""
    minimality_begin: float | None = Field(2e-3, gt=0)
    """that factor in the first half of the steps, after which it falls; null: it is the same all the time"""
    power: float = Field(1.0, gt=0)
    """power of an importance in the penalty"""
    seeds: int = Field(2, ge=1, le=20)
    """runs from different starts"""
    control: bool = True
    """whether a model with its weights in a random order is decomposed as well"""


BATCH_SCHEMA = pa.schema([
    ("question_id", pa.string()), ("kind", pa.string()), ("run", pa.int32()), ("matrix", pa.string()),
    ("tokens", pa.int32()), ("mean", pa.list_(pa.float64())), ("largest", pa.list_(pa.float64())),
    ("used", pa.list_(pa.float64())), ("l0", pa.float64()), ("divergence", pa.float64()),
    ("divergence_whole", pa.float64()), ("same_token", pa.float64()), ("status", pa.string()),
])  # fmt: skip

VIEW = View(
    "Parameters as components of which a token needs few",
    "Matrices as sums of rank-one components. A component is important where the model needs it. Low divergence says "
    "that the model works with what is called important alone; agreement near that of random directions says that the "
    "components are the run's own doing. What the control, a model with its weights in a random order, shows "
    "too is no finding.",
    (
        TablePart(
            part="matrices",
            title="How well and how sparsely",
            only={"status": "ok"},
            columns=(
                Column("of"), Column("seed", "run"), Column("layer"), Column("matrix"), Column("components"),
                Column("alive"), Column("l0", "used by a token"), Column("error", "error of the sum"),
                Column("divergence", "divergence, nats"), Column("divergence_whole", "with all kept"),
                Column("same_token", "same next token"),
                Column("agreement", "agreement of runs", absent="–"),
                Column("agreement_random", "with random directions", absent="–"),
            ),
        ),
        LinePart(part="components", x="rank", y="importance", group="matrix", each=("layer",), only={"status": "ok"},
                 title="Importance of components, block {layer}", x_label="components by importance",
                 label="mean importance"),
        LinePart(part="training", x="step", y="loss", group="seed", each=("of",), title="Loss of training: {of}",
                 x_label="step", label="loss"),
        TablePart(
            part="components",
            title="The most important components",
            only={"status": "ok"},
            sort=("-importance",),
            top=20,
            columns=(
                Column("layer"), Column("matrix"), Column("component"), Column("norm"), Column("importance"),
                Column("share", "share of tokens"), Column("top_kind", "most in"), Column("agreement", absent="–"),
            ),
        ),
        TablePart(part="parameters", title="What was decomposed and what stays whole", folded=True,
                  columns=(Column("layer"), Column("parameter"), Column("shape"), Column("decomposed"),
                           Column("reason", absent=""))),
    ),
)  # fmt: skip


class Run(NamedTuple):
    """One training: of the model or of the control, and its number."""

    of: str
    seed: int

    @property
    def name(self) -> str:
        """For folders and tensors."""
        return f"{'model' if self.of == MODEL else 'control'}-{self.seed}"


def blocks_of(model: LanguageModel, layers: Sequence[int], settings: Settings) -> tuple[int, ...]:
    """The blocks whose matrices are decomposed. Raises UsageError for one that is not looked at."""
    if settings.blocks is None:
        middle = layers[len(layers) // 2]
        places = chosen_places(model, layers, settings.matrices)
        having = [layer for layer in layers if any(place.layer == layer for place in places)]
        return (min(having or [middle], key=lambda layer: (abs(layer - middle), layer)),)
    for block in settings.blocks:
        if block not in layers:
            raise UsageError(
                f"blocks name {block}, which is not among the blocks looked at ({', '.join(map(str, layers))})"
            )
    return tuple(sorted(set(settings.blocks)))


def check(asked: Asked) -> None:
    """`Step.check`: the blocks are looked at and have the matrices; where none is named no token is read for that."""
    settings: Settings = asked.settings
    if settings.blocks is not None or settings.matrices is not None:
        blocks = blocks_of(asked.model, asked.layers, settings)
        if settings.matrices is not None:
            chosen_places(asked.model, blocks, settings.matrices)


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """`Step.cost`: minibatches of prompts, forwards with masks and backwards, of every seed and the control."""
    settings: Settings = asked.settings
    read = settings.steps * settings.prompts_at_once * mean_length(lengths)
    return Effort(4.5 * read * (settings.seeds + settings.control), of_files(4) + 500_000)


@step("spd", settings=Settings, seeded=True, check=check, view=VIEW, cost=cost)
def spd(job: Job) -> StepOutput:
    """Matrices as sums of rank-one components of which each token needs few (SPD), with controls."""
    settings: Settings = job.settings
    blocks = blocks_of(job.model, job.layers, settings)
    places = chosen_places(job.model, blocks, settings.matrices)
    empty = [block for block in blocks if block not in {place.layer for place in places}]
    parameters = parameter_rows(job.model, blocks, places)
    absent = [{"layer": block, "status": NOT_APPLICABLE, "reason": NOTHING} for block in empty]
    if not places:
        return StepOutput(_tables(absent, absent, [], parameters))
    runs = [Run(MODEL, seed) for seed in range(settings.seeds)] + ([Run(CONTROL, 0)] if settings.control else [])
    fitted = {run: _train(job, run, places) for run in runs}
    arguments = {
        "blocks": list(blocks), "matrices": None if settings.matrices is None else list(settings.matrices),
        "runs": [{"shuffle": job.seed if run.of == CONTROL else None, "tensors": to_text(fitted[run].parameters)}
                 for run in runs],
    }  # fmt: skip
    seen = job.map(batch_importances, BATCH_SCHEMA, arguments).to_pylist()
    agreements = {place: _agreements(place, runs, fitted, seen, job) for place in places if place.acting != "rows"}
    matrices = [
        _matrix_row(job, place, run, number, fitted[run].parameters, seen, agreements)
        for number, run in enumerate(runs)
        for place in places
    ]
    components = [row for place in places for row in _component_rows(job, place, fitted[runs[0]], seen, agreements)]
    curves = [row for run in runs for row in _curve(run, fitted[run].losses)]
    kept = {run.name: dict(fitted[run].parameters) for run in runs if run.of == MODEL}
    return StepOutput(_tables(matrices + absent, components + absent, curves, parameters), kept)


def _tables(
    matrices: list[dict[str, Any]],
    components: list[dict[str, Any]],
    curves: list[dict[str, Any]],
    parameters: list[dict[str, Any]],
) -> dict[str, pa.Table]:
    return {
        "matrices": pa.Table.from_pylist(matrices, schema=MATRICES),
        "components": pa.Table.from_pylist(components, schema=COMPONENTS),
        "training": pa.Table.from_pylist(curves, schema=TRAINING),
        "parameters": pa.Table.from_pylist(parameters, schema=PARAMETERS),
    }


def _train(job: Job, run: Run, places: Sequence[Place]) -> Fitted:
    settings: Settings = job.settings
    model = job.model if run.of == MODEL else shuffled(job.model, job.seed)
    with one_thread(), still(model):
        function = PromptsFunction(model, places, job.items)
        dense = [m.weight for m in function.matrices.values() if m.acting != "rows"]
        size = sum(w.numel() for w in dense)
        square = float(sum((w**2).sum() for w in dense)) / size if dense else 1.0
        losses = Losses(
            faithfulness=settings.faithfulness / square, stochastic=settings.stochastic, layerwise=settings.layerwise,
            minimality=settings.minimality, power=settings.power, begin=settings.minimality_begin,
        )  # fmt: skip
        count = {p.name: max(1, round(settings.overcomplete * min(p.rows, p.columns))) for p in places}
        first = torch.arange(min(len(job.items), settings.prompts_at_once))
        start = start_components(function, first, count, settings.hidden, job.seed + run.seed)

        def loss(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
            now = losses.at(batch.step / settings.steps)
            parts = parts_of_loss(function, parameters, batch.examples, batch.generator, now, divergence_of_logits)
            return total(parts, now)

        schedule = Schedule(settings.steps, settings.prompts_at_once, settings.learning_rate)
        return fit(run.name, start, loss, examples=len(job.items), schedule=schedule, seed=job.seed + run.seed,
                   folder=job.folder, progress=job.progress)  # fmt: skip


def batch_importances(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Of each run, matrix and prompt of one batch: importances; and with matrix null, how the model fares."""
    places = chosen_places(model, arguments["blocks"], arguments["matrices"])
    rows: list[dict[str, Any]] = []
    for number, run in enumerate(arguments["runs"]):
        chosen = model if run["shuffle"] is None else shuffled(model, run["shuffle"])
        parameters = {name: t.to(chosen.device) for name, t in from_text(run["tensors"]).items()}
        with still(chosen):
            function = PromptsFunction(chosen, places, batch.items)
            found = on_prompts(function, parameters, range(len(batch.items)))
        for item, of in zip(batch.items, found, strict=True):
            about = {"question_id": item.id, "kind": item.kind, "run": number}
            if of is None:
                rows += [about | {"matrix": m, "status": "model_nonfinite"} for m in (None, *(p.name for p in places))]
                continue
            about |= {"tokens": of.tokens, "status": "ok"}
            rows.append(about | {"divergence": of.divergence, "divergence_whole": of.whole, "same_token": of.same})
            for name, each in of.matrices.items():
                values = {key: getattr(each, key).double().tolist() for key in ("mean", "largest", "used")}
                rows.append(about | {"matrix": name, "l0": each.l0} | values)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


class _Seen(NamedTuple):
    """Of one run and matrix, prompts that are finite: their kinds and tokens (n,), and values (n, C)."""

    kinds: list[str]
    tokens: np.ndarray
    mean: np.ndarray
    largest: np.ndarray
    used: np.ndarray


def _seen(rows: Sequence[Mapping[str, Any]], run: int, matrix: str) -> _Seen | None:
    here = [row for row in rows if (row["run"], row["matrix"], row["status"]) == (run, matrix, "ok")]
    if not here:
        return None
    values = (np.array([row[name] for row in here], np.float64) for name in ("mean", "largest", "used"))
    return _Seen([row["kind"] or "" for row in here], np.array([row["tokens"] for row in here]), *values)


def _agreements(
    place: Place, runs: Sequence[Run], fitted: Mapping[Run, Fitted], rows: Sequence[Mapping[str, Any]], job: Job
) -> dict[Run, tuple[np.ndarray, float | None, float | None]]:
    """For each run of the model: of each component the best |cosine| in the others, mean over these (C,); its mean over
    alive components, and that with random directions."""
    own = [(number, run) for number, run in enumerate(runs) if run.of == MODEL]
    ones = {run: ones_of(fitted[run].parameters, place.name) for _, run in own}
    alive: dict[Run, Tensor] = {}
    for number, run in own:
        seen = _seen(rows, number, place.name)
        used = np.zeros(ones[run].U.shape[1], bool) if seen is None else seen.largest.max(0) > USED
        alive[run] = torch.from_numpy(used).to(ones[run].U.device)
    found: dict[Run, tuple[np.ndarray, float | None, float | None]] = {}
    for _, run in own:
        others = [other for _, other in own if other != run and bool(alive[other].any())]
        if not others or not bool(alive[run].any()):
            continue
        generator = torch.Generator().manual_seed(job.seed + run.seed)
        best = torch.stack([_best(ones[run], ones[other].only(alive[other])) for other in others]).mean(0)
        random = [random_ones(ones[other].only(alive[other]), generator) for other in others]
        chance = torch.stack([_best(ones[run], other) for other in random]).mean(0)
        mean, by_chance = (float(x[alive[run]].double().mean()) for x in (best, chance))
        found[run] = (best.double().cpu().numpy(), mean, by_chance)
    return found


def _best(ones: RankOnes, others: RankOnes) -> Tensor:
    return cosines(ones, others).abs().amax(1)


def _matrix_row(
    job: Job,
    place: Place,
    run: Run,
    number: int,
    parameters: Tensors,
    rows: Sequence[Mapping[str, Any]],
    agreements: Mapping[Place, Mapping[Run, tuple[np.ndarray, float | None, float | None]]],
) -> dict[str, Any]:
    count = len(parameters[f"b_out/{place.name}"])
    row: dict[str, Any] = {
        "of": run.of, "seed": run.seed, "layer": place.layer, "matrix": place.path, "kind": place.acting,
        "rows": place.rows, "columns": place.columns, "components": count,
    }  # fmt: skip
    seen = _seen(rows, number, place.name)
    if seen is None:
        return row | {"status": "model_nonfinite", "reason": "no prompt has finite scores", "n_prompts": 0}
    weight = matrix_of(job.model if run.of == MODEL else shuffled(job.model, job.seed), place).weight
    error = 0.0 if place.acting == "rows" else float(
        squared_error(weight.double(), RankOnes(*(x.double() for x in ones_of(parameters, place.name))))
        / (weight.double() ** 2).sum()
    )  # fmt: skip
    own = [r for r in rows if (r["run"], r["matrix"], r["status"]) == (number, None, "ok")]
    tokens = np.array([r["tokens"] for r in own])
    whole = {
        name: float(np.average([r[name] for r in own], weights=tokens))
        for name in ("divergence", "divergence_whole", "same_token")
    }
    _, agreement, chance = agreements.get(place, {}).get(run, (None, None, None))
    return row | whole | {
        "alive": int((seen.largest.max(0) > USED).sum()),
        "l0": float(np.average(seen.used.sum(1), weights=seen.tokens)),
        "importance": float(np.average(seen.mean.sum(1), weights=seen.tokens)),
        "error": error, "agreement": agreement, "agreement_random": chance, "n_prompts": len(own), "status": "ok",
    }  # fmt: skip


def _component_rows(
    job: Job,
    place: Place,
    fitted: Fitted,
    rows: Sequence[Mapping[str, Any]],
    agreements: Mapping[Place, Mapping[Run, tuple[np.ndarray, float | None, float | None]]],
) -> list[dict[str, Any]]:
    about = {"layer": place.layer, "matrix": place.path}
    seen = _seen(rows, 0, place.name)
    if seen is None:
        return [about | {"status": "model_nonfinite", "reason": "no prompt has finite scores"}]
    if place.acting == "rows":
        norms = matrix_of(job.model, place).weight.norm(dim=1).tolist()
    else:
        norms = ones_of(fitted.parameters, place.name).norms.tolist()
    importance = np.average(seen.mean, axis=0, weights=seen.tokens)
    share = np.average(seen.used, axis=0, weights=seen.tokens)
    largest = seen.largest.max(0)
    kinds = sorted(set(seen.kinds))
    of_kind = np.stack([
        np.average(seen.mean[at], axis=0, weights=seen.tokens[at])
        for at in (np.array([kind == k for kind in seen.kinds]) for k in kinds)
    ])  # fmt: skip
    best = agreements.get(place, {}).get(Run(MODEL, 0))
    found: list[dict[str, Any]] = []
    for number, rank in enumerate(ranks(importance)):
        kind = int(of_kind[:, number].argmax())
        found.append(about | {
            "component": number, "norm": norms[number], "importance": float(importance[number]),
            "largest": float(largest[number]), "share": float(share[number]), "alive": bool(largest[number] > USED),
            "rank": int(rank), "top_kind": kinds[kind] or None, "top_kind_importance": float(of_kind[kind, number]),
            "agreement": None if best is None else float(best[0][number]), "status": "ok",
        })  # fmt: skip
    return found


def _curve(run: Run, losses: Sequence[float]) -> list[dict[str, Any]]:
    size = -(-len(losses) // _CURVE)
    cuts = [range(start, min(start + size, len(losses))) for start in range(0, len(losses), size)]
    return [
        {"of": run.of, "seed": run.seed, "step": cut[-1] + 1, "loss": float(np.mean([losses[i] for i in cut]))}
        for cut in cuts
    ]
