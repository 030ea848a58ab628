"""Attribution-based parameter decomposition, compared with the stochastic one on the same matrices.

All chosen matrices together become a sum of components, each with a part of low rank in every matrix, of which a prompt
uses k on average: those that matter most to the scores of its last token by a linear estimate (`methods.apd`, arXiv
2501.14926). How many a prompt uses has to be said beforehand, and what is found depends on it. With the matrices of the
step `spd`, so that the two can be compared: for each rank-one component of SPD that is alive, the largest |cosine| with
a component's part in that matrix, beside random directions of the same norms.

Parts: `components`, their norms, ranks and use; `comparison`, a row for each matrix; `runs`; `parameters` as in `spd`.
Tensors: U and V of each run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from ...models.shuffled import shuffled
from ...runtime.plan import digest_of
from ..engine.batches import Batch
from ..engine.columns import ranks
from ..engine.effort import mean_length, of_files
from ..engine.fitting import Fitted, Minibatch, Schedule, fit, one_thread
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepOutput, StepSettings, step
from ..engine.tensor_text import from_text, to_text
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.apd import (
    Weights,
    active_layer,
    attributions,
    batch_top,
    components_of,
    parts_of_loss,
    start_components,
    total,
)
from ..methods.apd_schema import COMPARISON, COMPONENTS, RUNS
from ..methods.matrix_function import clean_pass, divergence_of_logits
from ..methods.model_matrices import Place, chosen_places
from ..methods.prompts_function import PromptsFunction, still
from ..methods.rank_one import cosines_with, random_ones
from ..methods.spd_schema import CONTROL, MODEL, NOTHING, PARAMETERS, parameter_rows
from ..methods.stochastic_masks import ones_of
from .spd import Run

if TYPE_CHECKING:
    from ...models import LanguageModel


class Settings(StepSettings):
    small = {"steps": 2, "seeds": 1, "prompts_at_once": 2, "components": 3, "rank": 2, "probes": 1, "control": False}

    components: int = Field(16, ge=2)
    """parameter components"""
    rank: int = Field(10, ge=1)
    """products of vectors in a component's part of a matrix; times the components it should reach the matrix's rank"""
    used: float = Field(4.0, gt=0)
    """components a prompt uses on average (k)"""
    probes: int = Field(2, ge=0)
    """random signs of the scores whose slopes stand for those of all scores; 0: each score by itself"""
    steps: int = Field(60, ge=1)
    """of training, for each run"""
    prompts_at_once: int = Field(4, ge=1)
    """prompts of one step of training, among which the most attributed components are shared out"""
    learning_rate: float = Field(3e-3, gt=0)
    faithfulness: float = Field(1.0, ge=0)
    """factor of the squared error of the sums, relative to the weights' own square"""
    minimality: float = Field(1.0, ge=0)
    """factor of the divergence with the active components alone, nats"""
    simplicity: float = Field(1e-3, ge=0)
    """factor of the penalty on rank"""
    power: float = Field(0.9, gt=0)
    """p of the penalty on rank"""
    seeds: int = Field(2, ge=1, le=20)
    """runs from different starts"""
    control: bool = True
    """whether a model with its weights in a random order is decomposed as well"""


BATCH_SCHEMA = pa.schema([
    ("question_id", pa.string()), ("kind", pa.string()), ("run", pa.int32()), ("attribution", pa.list_(pa.float64())),
    ("status", pa.string()),
])  # fmt: skip
USE_SCHEMA = pa.schema([
    ("question_id", pa.string()), ("run", pa.int32()), ("divergence", pa.float64()), ("same_token", pa.bool_()),
])  # fmt: skip

VIEW = View(
    "Parameters as components of which a prompt uses a given number",
    "Components with parts in all chosen matrices, of which a prompt uses a number that is said beforehand. A cosine "
    "near that of random directions says that the two found different things. The control, a model with its weights "
    "in a random order, has a fit too.",
    (
        TablePart(part="runs", title="How well", only={"status": "ok"}, columns=(
            Column("of"), Column("seed", "run"), Column("components"), Column("alive"),
            Column("used", "used by a prompt"), Column("error", "error of the sum"),
            Column("divergence", "divergence, nats"),
            Column("same_token", "same next token"),
        )),
        TablePart(part="comparison", title="Beside the other decomposition", only={"status": "ok"}, columns=(
            Column("seed", "run"), Column("layer"), Column("matrix"), Column("with"), Column("compared"),
            Column("mean_max_cosine", "mean of the best cosine"), Column("random", "of random directions"),
        )),
        LinePart(part="components", x="rank", y="use", group="matrix", each=("seed",), only={"status": "ok"},
                 title="Share of prompts that use a component, run {seed}", x_label="component by attribution",
                 label="share of prompts"),
        TablePart(part="components", title="Components of the first run", only={"status": "ok", "seed": 0},
                  sort=("rank",), top=40, columns=(
                      Column("component"), Column("layer"), Column("matrix"), Column("norm"),
                      Column("effective_rank", "effective rank", absent="–"), Column("use", "share of prompts"),
                      Column("attribution"), Column("top_kind", "most in"),
                  )),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """`Step.cost`: minibatches of prompts, with a pass backwards for each probe, of every seed and the control."""
    settings: Settings = asked.settings
    read = settings.steps * settings.prompts_at_once * mean_length(lengths)
    return Effort(2.5 * (1 + settings.probes) * read * (settings.seeds + settings.control), of_files(3) + 2_000_000)


@step("apd", needs=("spd",), settings=Settings, seeded=True, view=VIEW, cost=cost)
def apd(job: Job) -> StepOutput:
    """Matrices as components of which each prompt uses a given number (APD), compared with those of SPD."""
    settings: Settings = job.settings
    rows = job.upstream["spd"]["matrices"].to_pylist()
    named = list(dict.fromkeys((r["layer"], r["matrix"]) for r in rows if r["matrix"] is not None))
    blocks = sorted({r["layer"] for r in rows if r["layer"] is not None})
    places = [p for p in chosen_places(job.model, blocks, None if not named else [m for _, m in named])
              if (p.layer, p.path) in named] if named else []  # fmt: skip
    parameters = pa.Table.from_pylist(parameter_rows(job.model, blocks, places), schema=PARAMETERS)
    if not places:
        absent = [{"status": NOT_APPLICABLE, "reason": NOTHING}]
        return StepOutput(_tables(absent, absent, absent) | {"parameters": parameters})
    runs = [Run(MODEL, seed) for seed in range(settings.seeds)] + ([Run(CONTROL, 0)] if settings.control else [])
    fitted = {run: _train(job, run, places) for run in runs}
    arguments: dict[str, Any] = {
        "blocks": blocks, "matrices": [m for _, m in named], "probes": settings.probes,
        "runs": [{"shuffle": job.seed if run.of == CONTROL else None, "tensors": to_text(fitted[run].parameters)}
                 for run in runs],
    }  # fmt: skip
    seen = job.map(batch_attributions, BATCH_SCHEMA, arguments).to_pylist()
    active = [_active(seen, number, settings.used) for number in range(len(runs))]
    sets = [{id_: np.flatnonzero(on).tolist() for id_, on in of.items()} for of in active]
    used = job.map(batch_use, USE_SCHEMA, arguments | {"active": sets}).to_pylist()
    run_rows = [_run_row(job, run, n, places, fitted[run], active[n], used) for n, run in enumerate(runs)]
    own = [(n, run) for n, run in enumerate(runs) if run.of == MODEL]
    components = [row for n, run in own for row in _component_rows(job, run, n, places, fitted[run], active[n], seen)]
    comparison = _comparison(job, places, [(run, fitted[run], active[n]) for n, run in own])
    kept = {run.name: dict(fitted[run].parameters) for _, run in own}
    return StepOutput(_tables(run_rows, components, comparison) | {"parameters": parameters}, kept)


Rows = list[dict[str, Any]]


def _tables(runs: Rows, components: Rows, comparison: Rows) -> dict[str, pa.Table]:
    return {
        "runs": pa.Table.from_pylist(runs, schema=RUNS),
        "components": pa.Table.from_pylist(components, schema=COMPONENTS),
        "comparison": pa.Table.from_pylist(comparison, schema=COMPARISON),
    }


def _train(job: Job, run: Run, places: Sequence[Place]) -> Fitted:
    settings: Settings = job.settings
    model = job.model if run.of == MODEL else shuffled(job.model, job.seed)
    with one_thread(), still(model):
        function = PromptsFunction(model, places, job.items, last=True)
        weights = [matrix.weight for matrix in function.matrices.values()]
        square = float(sum((w**2).sum() for w in weights)) / sum(w.numel() for w in weights)
        factors = Weights(
            settings.used, settings.faithfulness / square, settings.minimality, settings.simplicity, settings.power,
            settings.probes,
        )  # fmt: skip
        # not where a run of spd with as many components begins, or the comparison would find the common start
        seed = int(digest_of(["apd", job.seed, run.seed])[:15], 16)
        start = start_components(function, settings.components, settings.rank, seed)

        def loss(parameters: Mapping[str, Tensor], batch: Minibatch) -> Tensor:
            parts = parts_of_loss(function, parameters, batch.examples, batch.generator, factors, divergence_of_logits)
            return total(parts, factors)

        schedule = Schedule(settings.steps, settings.prompts_at_once, settings.learning_rate)
        return fit(run.name, start, loss, examples=len(job.items), schedule=schedule, seed=job.seed + run.seed,
                   folder=job.folder, progress=job.progress)  # fmt: skip


def _functions(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> Any:
    """Of each run its number, the model it is of, the function of the batch and the parameters."""
    places = chosen_places(model, arguments["blocks"], arguments["matrices"])
    for number, run in enumerate(arguments["runs"]):
        chosen = model if run["shuffle"] is None else shuffled(model, run["shuffle"])
        parameters = {name: t.to(chosen.device) for name, t in from_text(run["tensors"]).items()}
        with still(chosen):
            yield number, PromptsFunction(chosen, places, batch.items, last=True), parameters


def batch_attributions(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Of each run and prompt of one batch: the attribution of every component."""
    rows: Rows = []
    for number, function, parameters in _functions(model, batch, arguments):
        generator = torch.Generator().manual_seed(0)
        found = attributions(function, parameters, torch.arange(len(batch.items)), arguments["probes"], generator)
        for item, each in zip(batch.items, found.double(), strict=True):
            about = {"question_id": item.id, "kind": item.kind, "run": number}
            fine = bool(torch.isfinite(each).all())
            rows.append(
                about | ({"attribution": each.tolist(), "status": "ok"} if fine else {"status": "model_nonfinite"})
            )
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


@torch.no_grad()
def batch_use(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Of each run and prompt of one batch: what the model says with the used components alone."""
    rows: Rows = []
    for number, function, parameters in _functions(model, batch, arguments):
        chosen = [i for i, item in enumerate(batch.items) if item.id in arguments["active"][number]]
        if not chosen:
            continue
        count = len(next(t for n, t in parameters.items() if n.startswith("share/"))) if any(
            n.startswith("share/") for n in parameters
        ) else next(t for n, t in sorted(parameters.items()) if n.startswith("U/")).shape[1]  # fmt: skip
        active = torch.zeros(len(chosen), count, device=model.device)
        for row, i in enumerate(chosen):
            active[row, arguments["active"][number][batch.items[i].id]] = 1.0
        examples = torch.tensor(chosen)
        target = clean_pass(function, examples).outputs
        layers = {n: active_layer(m, parameters, n, active) for n, m in function.matrices.items()}
        outputs = function(examples, layers)
        for row, i in enumerate(chosen):
            same = bool(target[row].argmax() == outputs[row].argmax())
            apart = float(divergence_of_logits(outputs[row : row + 1].double(), target[row : row + 1].double()))
            rows.append({"question_id": batch.items[i].id, "run": number, "divergence": apart, "same_token": same})
    return pa.Table.from_pylist(rows, schema=USE_SCHEMA)


def _active(rows: Sequence[Mapping[str, Any]], run: int, used: float) -> dict[str, np.ndarray]:
    """Question -> which components it uses (C,) bool: the largest attributions of all prompts together."""
    here = [row for row in rows if row["run"] == run and row["status"] == "ok"]
    if not here:
        return {}
    on = batch_top(torch.tensor([row["attribution"] for row in here], dtype=torch.float64), used)
    return {row["question_id"]: of.numpy() > 0 for row, of in zip(here, on, strict=True)}


def _run_row(
    job: Job,
    run: Run,
    number: int,
    places: Sequence[Place],
    fitted: Fitted,
    active: Mapping[str, np.ndarray],
    used: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    row: dict[str, Any] = {"of": run.of, "seed": run.seed, "components": job.settings.components}
    if not active:
        return row | {"status": "model_nonfinite", "reason": "no prompt has finite scores", "n_prompts": 0}
    model = job.model if run.of == MODEL else shuffled(job.model, job.seed)
    matrices = PromptsFunction(model, places, ()).matrices
    errors = squares = 0.0
    for name, matrix in matrices.items():
        rest = matrix.weight - components_of(matrix, fitted.parameters, name).sum(0)
        errors, squares = errors + float((rest**2).sum()), squares + float((matrix.weight**2).sum())
    on = np.stack(list(active.values()))
    own = [r for r in used if r["run"] == number]
    last = fitted.losses[-max(1, len(fitted.losses) // 10) :]
    return row | {
        "alive": int(on.any(0).sum()), "used": float(on.sum(1).mean()), "error": errors / squares,
        "divergence": float(np.mean([r["divergence"] for r in own])),
        "same_token": float(np.mean([r["same_token"] for r in own])), "loss": float(np.mean(last)),
        "n_prompts": len(own), "status": "ok",
    }  # fmt: skip


def _component_rows(
    job: Job,
    run: Run,
    number: int,
    places: Sequence[Place],
    fitted: Fitted,
    active: Mapping[str, np.ndarray],
    rows: Sequence[Mapping[str, Any]],
) -> Rows:
    here = [row for row in rows if row["run"] == number and row["status"] == "ok"]
    if not here:
        return [{"seed": run.seed, "status": "model_nonfinite", "reason": "no prompt has finite scores"}]
    attribution = np.array([row["attribution"] for row in here]).mean(0)
    on = np.stack([active[row["question_id"]] for row in here])
    kinds = np.array([row["kind"] or "" for row in here])
    names = sorted(set(kinds.tolist()))
    by_kind = np.stack([on[kinds == kind].mean(0) for kind in names])
    order = ranks(attribution)
    found: Rows = []
    for name, matrix in PromptsFunction(job.model, places, ()).matrices.items():
        place = next(p for p in places if p.name == name)
        for c, part in enumerate(components_of(matrix, fitted.parameters, name)):
            values = None if matrix.acting == "rows" else torch.linalg.svdvals(part.double())
            found.append({
                "seed": run.seed, "layer": place.layer, "matrix": place.path, "component": c,
                "norm": float(part.norm()), "effective_rank": None if values is None else _effective(values),
                "use": float(on[:, c].mean()),
                "attribution": float(attribution[c]), "rank": int(order[c]),
                "top_kind": names[int(by_kind[:, c].argmax())] or None if on[:, c].any() else None, "status": "ok",
            })  # fmt: skip
    return found


def _effective(values: Tensor) -> float:
    shares = values / values.sum().clamp_min(1e-30)
    return float(torch.exp(-(shares * torch.log(shares.clamp_min(1e-30))).sum()))


def _comparison(
    job: Job, places: Sequence[Place], runs: Sequence[tuple[Run, Fitted, Mapping[str, np.ndarray]]]
) -> Rows:
    stored = job.upstream_tensors["spd"]["model-0"]
    alive = [r for r in job.upstream["spd"]["components"].to_pylist() if r["alive"]]
    rows: Rows = []
    matrices = PromptsFunction(job.model, places, ()).matrices
    for run, fitted, _ in runs:
        generator = torch.Generator().manual_seed(job.seed + run.seed)
        others = [(other, on) for one, other, on in runs if one != run and on]
        for place in places:
            about = {"seed": run.seed, "layer": place.layer, "matrix": place.path}
            if place.acting == "rows":
                reason = "the rows of a convolution are given: both methods have the same"
                rows.append(about | {"with": "spd", "status": NOT_APPLICABLE, "reason": reason})
                continue
            parts = components_of(matrices[place.name], fitted.parameters, place.name).cpu()
            numbers = [r["component"] for r in alive if (r["layer"], r["matrix"]) == (place.layer, place.path)]
            ones = ones_of(stored, place.name).only(torch.tensor(numbers, dtype=torch.long))
            pairs = [
                ("spd", len(numbers), cosines_with(parts, ones), cosines_with(parts, random_ones(ones, generator)))
            ]
            if others:
                other, on = others[0]
                used = torch.from_numpy(np.stack(list(on.values())).any(0))
                theirs = components_of(matrices[place.name], other.parameters, place.name).cpu()[used]
                drawn = torch.randn(theirs.shape, generator=generator).to(theirs)
                pairs.append(("seed", len(theirs), _between(parts, theirs), _between(parts, drawn)))
            for name, count, found, chance in pairs:
                if not count:
                    reason = "no component of the other decomposition is alive"
                    rows.append(about | {"with": name, "status": NOT_APPLICABLE, "reason": reason})
                    continue
                best, random = (float(x.abs().amax(0).double().mean()) for x in (found, chance))
                rows.append(about | {"with": name, "compared": count, "mean_max_cosine": best, "random": random,
                                     "status": "ok"})  # fmt: skip
    return rows


def _between(parts: Tensor, others: Tensor) -> Tensor:
    """Cosines (C, C') of matrices (C, out, in) with others (C', out, in)."""
    a, b = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True).clamp_min(1e-30) for x in (parts, others))
    return a @ b.T
