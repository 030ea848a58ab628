"""How alike the layers of a model are, and those of other models or checkpoints, in what their vectors say of tokens.

Vectors of a site are taken at `tokens` tokens of each prompt, at equal steps, the last among them, and compared by
`methods.representation_similarity`: debiased linear CKA, SVCCA and Procrustes similarity. The null is the same with one
side's tokens in another order within each prompt: what is left is what prompts as wholes have in common, and what
SVCCA and Procrustes reach by chance. Intervals are of a jackknife that leaves out a tenth of the prompts at a time
(Student's t with nine degrees of freedom); they may run past 1.

`--compare A,RUN@STEP` adds the layers of further models, each against those of the first. Where another model reads a
prompt in other tokens, all its vectors of that prompt are those of the last token, and of the first model too; where
all prompts are so, the null is of other prompts. Without further models it is the model's own layers alone. Large
models are compared at `blocks` blocks at most. CKA says how alike geometries are, and nothing of what is read of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from ...scoring.statistics import rank_p
from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.places import SITE_WORDS, places
from ..engine.statuses import GOOD, NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import Column, MapPart, TablePart, View
from ..methods.along_texts import along_texts
from ..methods.representation_similarity import MEASURES, Vectors, prepared, similarity
from ..methods.sites_across_models import names_of, sites_of, thinned

if TYPE_CHECKING:
    from ...models import LanguageModel

FOLDS = 10


class Settings(StepSettings):
    small = {"draws": 3, "blocks": 3}

    site: str = "resid_post"
    """whose vectors are compared, relative to the block"""
    tokens: int = Field(8, ge=1)
    """of each prompt, at equal steps, the last among them"""
    blocks: int = Field(6, ge=1)
    """of each model, at equal steps, at most"""
    draws: int = Field(20, ge=1)
    """orders of the tokens for the null"""
    confidence: float = Field(0.95, gt=0, lt=1)


SCHEMA = pa.schema([
    column("model", pa.string(), "the first model"),
    column("layer", pa.int32(), "block of it"),
    column("other_model", pa.string(), "the model of the other block, perhaps the same"),
    column("other_layer", pa.int32(), "block of that one; within a model the later one"),
    column("site", pa.string(), "whose vectors are compared"),
    column("measure", pa.string(), "cka: debiased and linear; svcca: mean canonical correlation; procrustes"),
    column("value", pa.float64(), "similarity; 1 for vectors that differ by rotation and one factor"),
    column("low", pa.float64(), "lower end of its jackknife interval; null for fewer than ten prompts"),
    column("high", pa.float64(), "upper end"),
    column("shuffled", pa.float64(), "mean over orders of the tokens within prompts (or of the prompts)"),
    column("shuffled_high", pa.float64(), "largest of them"),
    column("p", pa.float64(), "share of the orders, the given one among them, that are at least as alike"),
    column("null", pa.string(), "what was put in another order: tokens within prompts, or prompts"),
    column("n_vectors", pa.int32(), "vectors"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out because a value was not finite in one of both models"),
    column("status", pa.string(), "ok; model_nonfinite; not_applicable: see reason"),
    column("reason", pa.string(), "why there is no value"),
])  # fmt: skip
BATCH_SCHEMA = pa.schema([
    ("id", pa.string()), ("layer", pa.int32()), ("vectors", pa.list_(pa.list_(pa.float32()))),
])  # fmt: skip

_WORDS = SITE_WORDS | {"cka": "CKA, debiased", "svcca": "SVCCA", "procrustes": "Procrustes similarity"}
VIEW = View(
    "How alike layers are",
    "Similarity of what two blocks' vectors say of the same tokens, in whatever basis, beside the same with tokens in "
    "another order within each prompt. SVCCA and Procrustes are far above 0 by chance: read them against that.",
    (
        MapPart(
            rows="layer", columns="other_layer", value="value", only={"status": "ok"},
            each=("measure", "other_model"), title="{measure} with {other_model}", label="similarity", words=_WORDS,
        ),
        TablePart(
            title="Pairs of blocks", only={"status": "ok"}, sort=("measure",),
            columns=(
                Column("model"), Column("layer"), Column("other_model", "other"), Column("other_layer", "block"),
                Column("measure"), Column("value", "similarity", "low", "high"), Column("shuffled"),
                Column("p", form="p"), Column("n_vectors", "vectors"),
            ),
            words=_WORDS,
        ),
    ),
)  # fmt: skip


class _Side(NamedTuple):
    """A block of a model. vectors: prompt -> (tokens, p), finite ones alone."""

    model: int
    layer: int
    vectors: Mapping[str, NDArray[np.float64]]


def check(asked: Asked) -> None:
    """`Step.check`: the first model has the site."""
    places(asked.model, asked.layers, [asked.settings.site])


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A pass of each model; what takes time are singular values, for each pair of blocks, fold and draw."""
    settings: Settings = asked.settings
    blocks = min(settings.blocks, len(asked.layers))
    pairs = blocks * (blocks - 1) / 2 + blocks**2 * len(asked.others)
    width = max(place.channels for place in places(asked.model, asked.layers, [settings.site]))
    n = min(settings.tokens, 40) * len(lengths)
    work = 2e-10 * pairs * (settings.draws + FOLDS + 1) * width**2 * (n / 8 + 10 * width)
    return Effort(1.5 * sum(lengths) * (1 + len(asked.others)), of_files(3) + 60 * 3 * pairs, work + 0.1)


@step("layer_correlation", settings=Settings, seeded=True, check=check, others=(...,), view=VIEW, cost=cost)
def layer_correlation(job: Job) -> Tables:
    """How alike the vectors of layers are, within a model and between models: CKA, SVCCA, Procrustes."""
    settings: Settings = job.settings
    names = names_of(job.models)
    prompts = [{item.id: tuple(item.prompt) for item in of} for of in (job.items, *job.other_items)]
    alike = [id_ for id_, tokens in prompts[0].items() if all(of.get(id_) == tokens for of in prompts[1:])]
    sides: list[list[_Side]] = []
    missing: list[dict[str, Any]] = []
    for number, model in enumerate(job.models):
        having = [p.layer for p in sites_of(model, [settings.site])]
        layers = thinned([layer for layer in having if number or layer in job.layers], settings.blocks)
        if not layers:
            missing.append({"model": names[0], "other_model": names[number], "site": settings.site, "n_prompts": 0,
                            "status": NOT_APPLICABLE, "reason": "the model has no such site"})  # fmt: skip
            continue
        arguments = {"layers": layers, "site": settings.site, "tokens": settings.tokens, "alike": alike}
        rows = job.map(batch_vectors, BATCH_SCHEMA, arguments, model=number).to_pylist()
        found: dict[int, dict[str, NDArray[np.float64]]] = {layer: {} for layer in layers}
        for row in rows:
            vectors = np.array(row["vectors"], np.float64)
            if np.isfinite(vectors).all():
                found[row["layer"]][row["id"]] = vectors
        sides.append([_Side(number, layer, vectors) for layer, vectors in found.items()])
    made: list[dict[str, Any]] = []
    for a, b in [*combinations(sides[0], 2), *((a, b) for of in sides[1:] for a, b in product(sides[0], of))]:
        about = {"model": names[0], "layer": a.layer, "other_model": names[b.model], "other_layer": b.layer,
                 "site": settings.site}  # fmt: skip
        made += [about | row for row in _compared(a, b, [item.id for item in job.items], job)]
    if not made and not missing:
        missing.append({"model": names[0], "other_model": names[0], "site": settings.site, "n_prompts": 0,
                        "status": NOT_APPLICABLE, "reason": "one block alone has nothing to be like"})  # fmt: skip
    return {"": pa.Table.from_pylist(made + missing, schema=SCHEMA)}


def _compared(a: _Side, b: _Side, ids: Sequence[str], job: Job) -> list[dict[str, Any]]:
    settings: Settings = job.settings
    both = [id_ for id_ in ids if id_ in a.vectors and id_ in b.vectors]
    prompt = np.repeat(np.arange(len(both)), [len(a.vectors[id_]) for id_ in both])
    counts = {"n_vectors": len(prompt), "n_prompts": len(both), "n_nonfinite": len(ids) - len(both)}
    if not both:
        why = {"status": "model_nonfinite", "reason": "no prompt has finite values in both"}
        return [counts | why | {"measure": name} for name in MEASURES]
    x, y = (np.concatenate([side.vectors[id_] for id_ in both]) for side in (a, b))
    left, right = prepared(x), prepared(y)
    if left is None or right is None:
        why = {"status": NOT_APPLICABLE, "reason": "nothing varies, or there are fewer than four vectors"}
        return [counts | why | {"measure": name} for name in MEASURES]
    found = similarity(left, right)
    within = len(prompt) > len(both)
    rng = np.random.default_rng([job.seed, a.layer, b.model, b.layer])
    drawn = [similarity(left, right, order) for order in _orders(prompt, within, settings.draws, rng)]
    without = _left_out(x, y, prompt)
    rows: list[dict[str, Any]] = []
    for name in MEASURES:
        row = counts | {"measure": name, "null": "tokens within prompts" if within else "prompts"}
        if name not in found:
            rows.append(counts | {"measure": name, "status": NOT_APPLICABLE, "reason": "its scale is not positive"})
            continue
        null = [draw[name] for draw in drawn]
        row |= {"value": found[name], "shuffled": float(np.mean(null)), "shuffled_high": float(max(null)),
                "p": rank_p(found[name], null), "status": GOOD}  # fmt: skip
        folds = [fold[name] for fold in without if name in fold]
        if len(folds) == FOLDS:
            half = _half_width(folds, settings.confidence)
            row |= {"low": found[name] - half, "high": found[name] + half}
        rows.append(row)
    return rows


def _orders(prompt: NDArray[np.int64], within: bool, draws: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Orders of the vectors, each prompt's own among themselves where a prompt has several."""
    if not within:
        return [rng.permutation(len(prompt)) for _ in range(draws)]
    return [np.lexsort((rng.random(len(prompt)), prompt)) for _ in range(draws)]


def _left_out(x: NDArray[np.float64], y: NDArray[np.float64], prompt: NDArray[np.int64]) -> list[dict[str, float]]:
    """Similarities without each tenth of the prompts; none for fewer than ten prompts."""
    if len(set(prompt.tolist())) < FOLDS:
        return []
    pairs = [(prepared(x[kept]), prepared(y[kept])) for fold in range(FOLDS) for kept in [prompt % FOLDS != fold]]
    return [similarity(a, b) for a, b in pairs if isinstance(a, Vectors) and isinstance(b, Vectors)]


def _half_width(folds: Sequence[float], confidence: float) -> float:
    """Of the jackknife interval from estimates without one fold each (Efron and Tibshirani 1993, chapter 11)."""
    from scipy.special import stdtrit  # here, because importing it takes time

    count = len(folds)
    error = np.sqrt((count - 1) / count * float(((np.array(folds) - np.mean(folds)) ** 2).sum()))
    return float(error * stdtrit(count - 1, (1 + confidence) / 2))


def batch_vectors(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """The vectors of each prompt and block: at several tokens where all models read the prompt alike, else at the
    last."""
    layers, same = arguments["layers"], set(arguments["alike"])
    rows: list[dict[str, Any]] = []
    wanted = [[f"blocks.{layer}.{place}"] for layer in layers for place in [_inside(model, arguments["site"])]]
    for number, item, values in along_texts(model, batch, wanted):
        (value,) = values.values()
        count = min(arguments["tokens"], len(value)) if item.id in same else 1
        at = [(i + 1) * len(value) // count - 1 for i in range(count)]
        rows.append({"id": item.id, "layer": layers[number], "vectors": value[at].float().cpu().tolist()})
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _inside(model: LanguageModel, site: str) -> str:
    return sites_of(model, [site])[0].site
