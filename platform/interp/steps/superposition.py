"""Geometry of superposition: of the latents of autoencoders, of weights and of activations, beside random matrices.

How many directions share how many dimensions (`methods.superposition`): coherence against the least that so many
directions can have, how many dimensions the singular values spread over, and for each latent its feature
dimensionality D_i, 1 for one that has a dimension to itself. Beside every matrix stand Gaussian ones of its shape with
rows of its lengths; beside activations the same with each coordinate shuffled over tokens, which keeps what each
coordinate does and destroys what they do together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from ...runtime.plan import digest_of
from ..engine.columns import column
from ..engine.effort import passes
from ..engine.fitting import one_thread
from ..engine.places import SITE_WORDS
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Job, StepSettings, Tables, step
from ..engine.view import BarPart, Column, LinePart, TablePart, View
from ..methods.activation_store import Store, Stored
from ..methods.sae.examples import StoredExamples, spread_rows
from ..methods.sae.material import Autoencoder, autoencoders_of
from ..methods.superposition import dimensionality, gaussian_like, geometry


class Settings(StepSettings):
    small = {"tokens": 200, "draws": 2}

    draws: int = Field(3, ge=2, le=100)
    """random matrices beside each"""
    tokens: int = Field(4096, ge=2)
    """tokens at most, evenly spread, whose activations are looked at"""
    largest: int = Field(2048, ge=2)
    """weight matrices with more rows or columns are left out: embeddings of large vocabularies"""


_MEASURES = (
    ("coherence", "largest |cosine| between two of the vectors"),
    ("participation_ratio", "(sum lambda)^2 / sum lambda^2 of the squared singular values"),
    ("effective_rank", "exp of the entropy of the singular values' shares"),
    ("stable_rank", "sum of squared singular values over the largest"),
)
MATRICES = pa.schema([
    column("of", pa.string(), "decoder: directions of an autoencoder's latents; weights: of a matrix of the block, "
           "what each of its inputs writes; activations: centred, of a site, whose vectors are tokens"),
    column("layer", pa.int32(), "block"),
    column("name", pa.string(), "site and kind of autoencoder, parameter, or site"),
    column("vectors", pa.int32(), "vectors that are not zero"),
    column("dimensions", pa.int32(), "numbers in each"),
    column("frobenius_squared", pa.float64(), "sum of the vectors' squared lengths"),
    column("dimensions_per_vector", pa.float64(), "dimensions over that sum"),
    column("welch_bound", pa.float64(), "the least coherence that so many vectors can have"),
    *(column(name, pa.float64(), about + ("; null of activations" if name == "coherence" else "")) for name, about in
      _MEASURES),
    *(column(f"{name}_random", pa.float64(), f"{name.replace('_', ' ')} of Gaussian matrices of the same shape and "
             "lengths, mean of the draws; of activations: with each coordinate shuffled over tokens")
      for name, _ in _MEASURES),
    *(column(f"{name}_random_sd", pa.float64(), "standard deviation of the draws") for name, _ in _MEASURES),
    column("status", pa.string(), "ok; not_applicable: all vectors are zero, or there are none"),
])  # fmt: skip

FEATURES = pa.schema([
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
    column("kind", pa.string(), "kind of autoencoder, its first seed"),
    column("latent", pa.int32(), "latent"),
    column("dimensionality", pa.float64(), "D_i: 1 alone in a dimension, 1/2 in an antipodal pair, 2/5 in a pentagon"),
    column("rank", pa.int32(), "1 for the largest"),
    column("random", pa.float64(), "D of the same rank among random directions of the same number, mean of the draws"),
    column("status", pa.string(), "ok; not_applicable: there is no autoencoder"),
])  # fmt: skip

VIEW = View(
    "Superposition: how many directions share how many dimensions",
    "A matrix that is as coherent and as flat as a random one of its shape shows no structure. Weights are columns: "
    "what each input writes. Feature dimensionality is 1 for a latent that has a dimension to itself.",
    (
        LinePart(part="features", x="rank", y="dimensionality", group="kind", each=("layer", "site"),
                 only={"status": "ok"}, title="Dimensionality of latents, block {layer}, {site}",
                 x_label="latents, the largest first", label="D", words=SITE_WORDS),
        BarPart(part="matrices", x="name", y="effective_rank", only={"status": "ok", "of": "activations"},
                group="layer", title="Effective rank of activations", label="dimensions", words=SITE_WORDS),
        *(
            TablePart(
                part="matrices",
                only={"status": "ok", "of": of},
                title=title,
                folded=of == "weights",
                columns=(
                    Column("layer"), Column("name"), Column("vectors"), Column("dimensions"),
                    Column("welch_bound", "Welch bound"), Column("coherence", absent="–"),
                    Column("coherence_random", "random", absent="–"), Column("effective_rank", "effective rank"),
                    Column("effective_rank_random", "random"), Column("participation_ratio", "participation"),
                    Column("participation_ratio_random", "random"), Column("stable_rank", "stable rank"),
                    Column("stable_rank_random", "random"),
                ),
            )
            for of, title in (("decoder", "Directions of latents"), ("activations", "Activations"),
                              ("weights", "Weights"))
        ),
    ),
)  # fmt: skip


class _Matrix(NamedTuple):
    of: str
    layer: int
    name: str
    vectors: Tensor  # (n, C)


@step("superposition", needs=("collect", "sae"), settings=Settings, seeded=True, view=VIEW, cost=passes(0, seconds=1.5))
def superposition(job: Job) -> Tables:
    """Coherence, ranks and dimensionality of latents, weights and activations, beside random matrices."""
    found = [one for one in autoencoders_of(job) if one.number == 0]
    with one_thread():
        rows = [_row(matrix, job) for matrix in _matrices(job, found)]
        features = [row for one in found for row in _features(one, job)]
    features = features or [{"status": NOT_APPLICABLE}]
    return {
        "matrices": pa.Table.from_pylist(rows, schema=MATRICES),
        "features": pa.Table.from_pylist(features, schema=FEATURES),
    }


def _matrices(job: Job, found: list[Autoencoder]) -> Iterator[_Matrix]:
    for one in found:
        yield _Matrix("decoder", one.layer, f"{one.site}, {one.kind}", one.dictionary.W_dec)
    for layer in job.layers:
        for name, parameter in job.model.blocks[layer].named_parameters():
            linear = name.endswith("weight") and parameter.ndim == 2  # decays and the like map nothing
            if linear and 2 <= min(parameter.shape) and max(parameter.shape) <= job.settings.largest:
                yield _Matrix("weights", layer, name, parameter.detach().cpu().T)
    store = Store.of(job)
    for place in store.places:
        if len(store) > 1:
            x = _activations(store, place, job.settings.tokens)
            yield _Matrix("activations", place.layer, place.site, x - x.mean(0))
        else:
            yield _Matrix("activations", place.layer, place.site, torch.zeros(1, place.width))


def _activations(store: Store, place: Stored, tokens: int) -> Tensor:
    rows = spread_rows(len(store), tokens).numpy()
    return StoredExamples(store, place, rows)(torch.arange(len(rows))).double()


def _row(matrix: _Matrix, job: Job) -> dict[str, Any]:
    of_tokens = matrix.of == "activations"
    about: dict[str, Any] = {"of": matrix.of, "layer": matrix.layer, "name": matrix.name,
                             "dimensions": matrix.vectors.shape[1]}  # fmt: skip
    found = geometry(matrix.vectors, angles=not of_tokens)
    if found.spectrum is None:
        return about | {"status": NOT_APPLICABLE}
    draws: list[dict[str, float | None]] = []
    for draw in range(job.settings.draws):
        seed = int(digest_of([job.seed, matrix.of, matrix.layer, matrix.name, draw])[:15], 16)
        random = _shuffled(matrix.vectors, seed) if of_tokens else gaussian_like(matrix.vectors, seed)
        draws.append(_measures(geometry(random, angles=not of_tokens)))
    row = about | _measures(found) | {
        "vectors": found.n, "frobenius_squared": found.frobenius_squared,
        "dimensions_per_vector": found.dimensions_per_feature,
        "welch_bound": None if of_tokens else found.welch_bound, "status": "ok",
    }  # fmt: skip
    for name, _ in _MEASURES:
        values = [value for draw in draws if (value := draw[name]) is not None]
        if values:
            row |= {f"{name}_random": float(np.mean(values)), f"{name}_random_sd": float(np.std(values, ddof=1))}
    return row


def _measures(found: Any) -> dict[str, float | None]:
    spectrum = found.spectrum
    ranks = {name: None if spectrum is None else getattr(spectrum, name) for name, _ in _MEASURES[1:]}
    return {"coherence": found.coherence} | ranks


def _shuffled(x: Tensor, seed: int) -> Tensor:
    """Each coordinate of x (n, C) in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(x.shape, generator=generator).argsort(dim=0)
    return x.gather(0, order)


def _features(one: Autoencoder, job: Job) -> list[dict[str, Any]]:
    directions = one.dictionary.W_dec
    values = dimensionality(directions)
    random = torch.stack([
        dimensionality(gaussian_like(directions, int(digest_of([job.seed, "latents", draw])[:15], 16)))
        for draw in range(job.settings.draws)
    ]).nan_to_num(0.0).sort(dim=1, descending=True).values.mean(0)  # fmt: skip
    order = values.nan_to_num(-1.0).argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(1, len(order) + 1)
    return [
        {"layer": one.layer, "site": one.site, "kind": one.kind, "latent": latent, "dimensionality": value,
         "rank": place, "random": float(random[place - 1]), "status": "ok"}
        for latent, (value, place) in enumerate(zip(values.tolist(), rank.tolist(), strict=True))
    ]  # fmt: skip
