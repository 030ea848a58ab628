"""What a recurrence's A, B, C, D and Delta are like on text: their distributions, directions, and how stable they are.

`eigenvalues` lists A itself, with time constants at the mean Delta; here Delta, B and C vary with the tokens. A text's
own figures are taken first (over its tokens and units, or coordinates), then their means over texts, with intervals.

- `parameters`: moments and quantiles of each quantity. For what varies with the token also in how many directions it
  does: the effective rank (`methods.superposition`) of its vectors around their mean, at most the text's tokens less
  one, beside that of the same values with each channel's tokens in an order of its own.
- `stability`: |exp(Delta A)|, the share of a coordinate that a token leaves. The spectral radius is its largest value;
  the margin of a coordinate at a token is 1 - |exp(Delta A)|, what it forgets there. `long_run` follows one
  coordinate through the text: the largest exp(mean Delta Re A), which is what counts for whether a state can grow.
  Quantiles are of Delta |Re A|, from which margin and time constant 1 / (Delta |Re A|) follow, token by token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ...runtime.plan import digest_of
from ...scoring.statistics import Resampling
from ..engine.batches import Batch
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.statuses import GOOD, NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.along_texts import along_texts, finite
from ..methods.over_texts import STATUS, Rows, averaged, interval_columns
from ..methods.recurrences import LayerRecurrence, recurrences_of
from ..methods.superposition import spectrum
from ..methods.typed_tensors import singular_values, tensor_of

if TYPE_CHECKING:
    from ...models import LanguageModel

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHAPE = ("std", "skewness", "kurtosis", "min", *(f"q{round(100 * q):02d}" for q in QUANTILES), "max")
NO_RECURRENCE, CONSTANT = "the block has no recurrence", "this recurrence has no such quantity that varies"


class Settings(StepSettings):
    small = {"resamples": 100}

    marginal: float = Field(0.01, gt=0, lt=1)
    """margin below which a coordinate counts as marginal at a token, and share left below which as erased"""
    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100, le=1_000_000)


_PLACE = [
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "where the recurrence stands in the block; null where there is none"),
]
PARAMETERS_SCHEMA = pa.schema([
    *_PLACE,
    column("quantity", pa.string(), "A: real part of its eigenvalues; D; delta; B, C: their entries"),
    column("varies", pa.bool_(), "whether it varies with the token; else the numbers are exact and have no interval"),
    column("values", pa.int64(), "numbers in a token's vector, or in the parameter"),
    *interval_columns("mean", "mean over tokens and vector"),
    *(column(name, pa.float64(), f"{meaning}; of what varies with the token mean over prompts") for name, meaning in (
        ("std", "population standard deviation"), ("skewness", "third standardised moment; null where nothing varies"),
        ("kurtosis", "excess kurtosis; null where nothing varies"), ("min", "smallest value"),
        *((f"q{round(100 * q):02d}", f"quantile {q}") for q in QUANTILES), ("max", "largest value"))),
    *interval_columns("effective_rank", "directions in which its vectors vary along a text"),
    column("effective_rank_shuffled", pa.float64(), "the same with each channel's tokens shuffled; mean over prompts"),
    column("first_share", pa.float64(), "share of the variance in the first direction; mean over prompts"),
    *STATUS,
])  # fmt: skip
STABILITY_SCHEMA = pa.schema([
    *_PLACE,
    column("kind", pa.string(), "selective, averaging (Stable-Mamba): decay exp(Delta A); modal: exp(A)"),
    column("stable", pa.bool_(), "whether every Re A is below 0, so that no state can grow by itself"),
    *interval_columns("spectral_radius", "largest |exp(Delta A)| over tokens and coordinates"),
    *interval_columns("long_run", "largest exp(mean Delta Re A) over coordinates"),
    *interval_columns("margin_min", "smallest margin 1 - |exp(Delta A)|"),
    *interval_columns("margin_q05", "margin that 5 % of tokens and coordinates are below"),
    *interval_columns("margin_q50", "median margin"),
    *interval_columns("marginal", "share of tokens and coordinates whose margin is below the setting"),
    *interval_columns("erased", "share of tokens and coordinates where less than the setting is left"),
    *interval_columns("time_constant_q05", "tokens after which 1/e is left at this token's Delta, quantile 0.05"),
    *interval_columns("time_constant_q50", "the same, median"),
    *interval_columns("time_constant_q95", "the same, quantile 0.95"),
    *STATUS,
])  # fmt: skip
STABILITY = ("spectral_radius", "long_run", "margin_min", "margin_q05", "margin_q50", "marginal", "erased",
             "time_constant_q05", "time_constant_q50", "time_constant_q95")  # fmt: skip
BATCH_SCHEMA = pa.schema([
    ("id", pa.string()), ("part", pa.string()), ("layer", pa.int32()), ("site", pa.string()),
    ("quantity", pa.string()),
    *((name, pa.float64()) for name in ("mean", *_SHAPE, "effective_rank", "effective_rank_shuffled", "first_share",
                                        *STABILITY)),
    ("status", pa.string()), ("reason", pa.string()),
])  # fmt: skip

VIEW = View(
    "A, B, C, D and Delta on text",
    "Figures of each text, averaged over texts. A margin near 0 is a coordinate that forgets next to nothing at a "
    "token, a large one a coordinate that is erased: what the decays allow, no proof of use. A small effective rank "
    "says that all units choose alike.",
    (
        LinePart(
            part="stability", x="layer", y="time_constant_q50", low="time_constant_q05", high="time_constant_q95",
            group="site", only={"status": "ok"}, title="Time constants, token by token",
            explains="Median over tokens and coordinates; the band holds nine in ten of them.", label="tokens",
            log_y=True,
        ),
        TablePart(
            part="stability", title="Stability", only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("kind"), Column("stable"),
                Column("spectral_radius", "spectral radius", "spectral_radius_low", "spectral_radius_high"),
                Column("margin_q50", "median margin", "margin_q50_low", "margin_q50_high"),
                Column("marginal", "share marginal", "marginal_low", "marginal_high"),
                Column("erased", "share erased", "erased_low", "erased_high"), Column("n_prompts", "prompts"),
            ),
        ),
        TablePart(
            part="parameters", title="Distributions", only={"status": "ok"},
            columns=(
                Column("layer"), Column("site"), Column("quantity"), Column("mean", "mean", "mean_low", "mean_high"),
                Column("std", "deviation"), Column("q05", "5 %"), Column("q50", "median"), Column("q95", "95 %"),
                Column("effective_rank", "effective rank", "effective_rank_low", "effective_rank_high", absent="–"),
                Column("effective_rank_shuffled", "shuffled", absent="–"),
            ),
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A pass; what takes time are the quantiles of each coordinate's decays at each token."""
    eigenvalues = sum(p.A.numel() for layer in asked.layers for p in recurrences_of(asked.model, layer))
    return Effort(1.5 * sum(lengths), of_files(2) + 2200 * len(asked.layers), 6e-8 * eigenvalues * sum(lengths) + 0.02)


@step("ssm_parameters", settings=Settings, seeded=True, view=VIEW, cost=cost)
def ssm_parameters(job: Job) -> Tables:
    """Distributions, directions and stability of A, B, C, D and Delta on text."""
    settings: Settings = job.settings
    how = Resampling(job.seed, settings.confidence, settings.resamples)
    places = {layer: recurrences_of(job.model, layer) for layer in job.layers}
    arguments = {"layers": list(job.layers), "marginal": settings.marginal, "seed": job.seed}
    rows = job.map(batch_parameters, BATCH_SCHEMA, arguments).to_pylist()
    on_text = averaged(
        [row for row in rows if row["part"] == "parameters"], ("layer", "site", "quantity"),
        ("mean", "effective_rank"), how, (*_SHAPE, "effective_rank_shuffled", "first_share"),
    )  # fmt: skip
    stability = averaged([row for row in rows if row["part"] == "stability"], ("layer", "site"), STABILITY, how)
    widths = {site.name: int(site.axes[0]) for site in job.model.sites() if not site.constant}
    parameters: Rows = []
    stable: Rows = []
    for layer, of_layer in places.items():
        if not of_layer:
            missing = {"layer": layer, "n_prompts": 0, "status": NOT_APPLICABLE, "reason": NO_RECURRENCE}
            parameters.append(missing)
            stable.append(missing)
        for place in of_layer:
            here = {"layer": layer, "site": place.site}
            parameters += [here | row for row in _constants(place)]
            for row in on_text:
                if (row["layer"], row["site"]) == (layer, place.site):
                    known = row["status"] != NOT_APPLICABLE
                    width = widths[place.name(row["quantity"])] if known else None
                    parameters.append(row | {"varies": known, "values": width})
            about = {"kind": place.of.kind, "stable": bool((place.A.real < 0).all())}
            stable += [row | about for row in stability if (row["layer"], row["site"]) == (layer, place.site)]
    return {
        "parameters": pa.Table.from_pylist(parameters, schema=PARAMETERS_SCHEMA),
        "stability": pa.Table.from_pylist(stable, schema=STABILITY_SCHEMA),
    }


def _constants(place: LayerRecurrence) -> Rows:
    rows: Rows = []
    for name, values in (("A", place.A.real), ("D", place.of.D)):
        row: dict[str, Any] = {"quantity": name, "varies": False, "n_prompts": 0, "n_nonfinite": 0}
        if values is None:
            rows.append(row | {"status": NOT_APPLICABLE, "reason": CONSTANT})
        elif not bool(torch.isfinite(values).all()):
            rows.append(row | {"status": "model_nonfinite", "reason": "a value is not finite"})
        else:
            x = values.double().cpu().numpy().ravel()
            rows.append(row | distribution(x) | {"values": len(x), "status": GOOD})
    return rows


def distribution(x: NDArray[np.float64]) -> dict[str, float | None]:
    """Mean, standard deviation, skewness, excess kurtosis, extremes and quantiles of x (n,)."""
    mean, std = float(x.mean()), float(x.std())
    varies = bool(np.ptp(x) > 0) and std > 0
    z = (x - mean) / std if varies else x
    ends = np.quantile(x, QUANTILES)
    return {
        "mean": mean, "std": std if varies else 0.0, "skewness": float((z**3).mean()) if varies else None,
        "kurtosis": float((z**4).mean() - 3) if varies else None, "min": float(x.min()), "max": float(x.max()),
    } | {f"q{round(100 * q):02d}": float(v) for q, v in zip(QUANTILES, ends, strict=True)}  # fmt: skip


def directions(vectors: NDArray[np.float64], rng: np.random.Generator) -> dict[str, float]:
    """In how many directions vectors (T, W) vary, in how many with each channel shuffled; nothing where they do not."""
    found = _spectrum(vectors)
    shuffled = _spectrum(rng.permuted(vectors, axis=0))
    if found is None or shuffled is None:
        return {}
    return {
        "effective_rank": found.effective_rank, "effective_rank_shuffled": shuffled.effective_rank,
        "first_share": 1 / found.stable_rank,
    }  # fmt: skip


def _spectrum(vectors: NDArray[np.float64]) -> Any:
    centred = np.where(np.ptp(vectors, axis=0) > 0, vectors - vectors.mean(0), 0.0)
    return spectrum(singular_values(tensor_of(centred)))


def stability_of(rate: Tensor, delta: Tensor, marginal: float) -> dict[str, float]:
    """`STABILITY` of a text's delta (T, U) and rates |Re A| (U, M)."""
    each = (delta.double()[..., None] * rate).numpy().ravel()
    least, q05, q50, q95 = (float(v) for v in (each.min(), *np.quantile(each, (0.05, 0.5, 0.95))))
    lasting = float((delta.double().mean(0)[:, None] * rate).min())
    return {
        "spectral_radius": float(np.exp(-least)), "long_run": float(np.exp(-lasting)),
        "margin_min": float(-np.expm1(-least)), "margin_q05": float(-np.expm1(-q05)),
        "margin_q50": float(-np.expm1(-q50)), "marginal": float((each < -np.log1p(-marginal)).mean()),
        "erased": float((each > -np.log(marginal)).mean()), **_time_constants(q05, q50, q95),
    }  # fmt: skip


def _time_constants(q05: float, q50: float, q95: float) -> dict[str, float]:
    """1 / rate, whose quantiles come in the other order; infinite where nothing is forgotten."""
    names = ("time_constant_q95", "time_constant_q50", "time_constant_q05")
    return {name: 1 / rate if rate > 0 else float("inf") for name, rate in zip(names, (q05, q50, q95), strict=True)}


def batch_parameters(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Rows of each text and recurrence, one for each quantity that varies with the token, and one for stability."""
    found = [place for layer in arguments["layers"] for place in recurrences_of(model, layer)]
    sites = [{name: place.name(name) for name in ("delta", "B", "C") if isinstance(getattr(place.of, name), str)}
             for place in found]  # fmt: skip
    rows: Rows = []
    for number, item, values in along_texts(model, batch, [place.inputs for place in found]):
        place, here = found[number], sites[number]
        row = {"id": item.id, "layer": place.layer, "site": place.site}
        for name in ("delta", "B", "C"):
            of = row | {"part": "parameters", "quantity": name}
            if name not in here:
                rows.append(of | {"status": NOT_APPLICABLE, "reason": CONSTANT})
            elif not finite({name: values[here[name]]}):
                rows.append(of | {"status": "model_nonfinite", "reason": "a value is not finite"})
            else:
                x = values[here[name]].double().cpu().numpy()
                rng = np.random.default_rng(int(digest_of([arguments["seed"], item.id, here[name]])[:16], 16))
                rows.append(of | distribution(x.ravel()) | directions(x, rng) | {"status": GOOD})
        delta = values[here["delta"]].cpu() if "delta" in here else torch.ones(1, len(place.A))
        row["part"] = "stability"
        if finite({"delta": delta, "rate": place.rate}):
            rows.append(row | stability_of(place.rate, delta, arguments["marginal"]) | {"status": GOOD})
        else:
            rows.append(row | {"status": "model_nonfinite", "reason": "a value is not finite"})
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)
