"""The tables of the step `sae`, column by column, and the rows of latents and of their contexts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...engine.columns import column
from ..typed_tensors import floats, ints
from .correlates import PROPERTIES
from .dictionary import SparseDictionary
from .measures import Measured, Top

_PLACE = [column("layer", pa.int32(), "block"), column("site", pa.string(), "site, relative to the block")]
_KIND = column("kind", pa.string(), "kind of autoencoder")
_SEED = column("seed", pa.int32(), "number of the training run, from 0")
_STATUS = [
    column("status", pa.string(), "ok; not_applicable: there is nothing to learn from, or nothing to judge by"),
    column("reason", pa.string(), "why it is not ok"),
]
_LOSSES = [
    column("loss_clean", pa.float64(), "mean loss of the next token, nats, over the prompts that are spliced"),
    column("loss_spliced", pa.float64(), "the same with the reconstruction in the activation's place"),
    column("loss_zero", pa.float64(), "with zero in its place"),
    column("loss_mean", pa.float64(), "with its mean over tokens in its place"),
    column("recovered_zero", pa.float64(), "loss recovered against zero ablation: 1 nothing is lost; null where that "
           "ablation costs nothing, or the site cannot be edited"),
    column("recovered_mean", pa.float64(), "loss recovered against mean ablation, likewise"),
]  # fmt: skip

SAES = pa.schema([
    *_PLACE, _KIND, _SEED,
    column("tensors", pa.string(), "name of the part with its tensors: W_enc, b_enc, W_dec, b_dec, threshold or k"),
    column("n_latents", pa.int32(), "latents"),
    column("tokens", pa.int64(), "tokens it was trained on"),
    column("held_out", pa.float64(), "share of the groups of questions that it is not trained on"),
    column("tokens_held_out", pa.int64(), "tokens of other groups, on which it is judged"),
    column("scale", pa.float64(), "by what centred activations are multiplied to have a mean square of 1 a channel"),
    column("final_loss", pa.float64(), "mean training loss of the last tenth of the steps"),
    column("explained_variance", pa.float64(), "of the held-out activations; 1: reconstructed"),
    column("l0", pa.float64(), "active latents a token"),
    column("dead_share", pa.float64(), "share of latents that no held-out token activates"),
    column("dense_share", pa.float64(), "share of latents that more than a tenth of them activate"),
    *_LOSSES,
    column("error_term_exact", pa.bool_(), "whether logits keep every bit where the reconstruction is spliced in with "
           "what it does not reconstruct; null where that was not tried"),
    column("seed_match", pa.float64(), "mean max cosine of its latents with those of the other seeds; null for one"),
    column("absorption_fraction", pa.float64(), "mean over classes, see the table absorption; null without classes"),
    column("full_absorption", pa.float64(), "mean over classes; null without classes"),
    column("splitting", pa.float64(), "latents a class is split into, mean over classes; null without classes"),
    column("classes", pa.int32(), "classes these means are over"),
    *_STATUS,
])  # fmt: skip

SPREAD = pa.schema([
    *_PLACE, _KIND,
    column("measure", pa.string(), "column of the table saes"),
    column("seeds", pa.int32(), "training runs"),
    column("mean", pa.float64(), "over them"),
    column("sd", pa.float64(), "their standard deviation; null for one"),
    column("low", pa.float64(), "the smallest"),
    column("high", pa.float64(), "the largest"),
    *_STATUS,
])  # fmt: skip
MEASURES = (
    "explained_variance", "l0", "dead_share", "recovered_zero", "recovered_mean", "seed_match", "absorption_fraction",
    "full_absorption", "splitting",
)  # fmt: skip

FEATURES = pa.schema([
    *_PLACE, _KIND, _SEED,
    column("latent", pa.int32(), "latent"),
    column("alive", pa.bool_(), "whether a token activates it"),
    column("density", pa.float64(), "share of tokens that activate it"),
    column("density_rank", pa.int32(), "1 for the densest"),
    column("mean_active", pa.float64(), "mean value where it is active, in the site's units; null for a dead one"),
    column("largest", pa.float64(), "largest value; null for a dead one"),
    column("seed_match", pa.float64(), "largest cosine with a latent of another seed, mean over the other seeds"),
    *(column(f"r_{name}", pa.float64(), f"correlation with the {about}") for name, about in PROPERTIES.items()),
    column("r_position", pa.float64(), "correlation with the token's position"),
    column("category", pa.string(), "category of question with which it correlates most; null where none varies"),
    column("r_category", pa.float64(), "that correlation"),
    column("channels", pa.list_(pa.int32()), "coordinates of the site where its direction is largest, at most five"),
    column("status", pa.string(), "ok"),
])  # fmt: skip

CONTEXTS = pa.schema([
    *_PLACE, _KIND, _SEED,
    column("latent", pa.int32(), "latent; those that carry most, density times mean value"),
    column("rank", pa.int32(), "1 for the token at which it is largest"),
    column("value", pa.float64(), "its value there"),
    column("question_id", pa.string(), "the question"),
    column("position", pa.int32(), "the token's position in the prompt"),
    column("token", pa.string(), "the token; its id without a tokenizer"),
    column("context", pa.string(), "tokens around it, which is marked »so«"),
    column("status", pa.string(), "ok"),
])  # fmt: skip

ABSORPTION = pa.schema([
    *_PLACE, _KIND, _SEED,
    column("class", pa.string(), "class of tokens; null where there is none"),
    column("tokens", pa.int32(), "held-out tokens of it that the probe on the activations finds"),
    column("probe_f1", pa.float64(), "F1 of that probe on held-out tokens"),
    column("main", pa.list_(pa.int32()), "latents that stand for the class, the best first"),
    column("splitting", pa.int32(), "their number: as long as one more raises F1 by more than 0.03"),
    column("sparse_f1", pa.float64(), "F1 of the probe on them"),
    column("full_absorption", pa.float64(), "share of the tokens at which they are silent and one other latent stands "
           "for the class"),
    column("absorption_fraction", pa.float64(), "mean share of the class's direction that other latents write"),
    column("absorbing", pa.int32(), "the latent that does so most often; null for none"),
    column("status", pa.string(), "ok; not_applicable: too few tokens of the class"),
])  # fmt: skip

BASELINES = pa.schema([
    *_PLACE, _KIND,
    column("model", pa.string(), "trained, or shuffled: the same parameters, each with its entries in a random order"),
    column("basis", pa.string(), "sae: the autoencoder of the first seed; channels, pca: as many of the site's own "
           "channels or principal components as it has latents active, those farthest from their mean"),
    column("l0", pa.float64(), "active latents a token"),
    column("explained_variance", pa.float64(), "of held-out activations of that model"),
    column("dead_share", pa.float64(), "share of latents that no held-out token activates"),
    column("recovered_zero", pa.float64(), "loss recovered against zero ablation; null for shuffled weights, which "
           "have learnt nothing that could be lost"),
    column("recovered_mean", pa.float64(), "loss recovered against mean ablation, likewise"),
    column("r_category", pa.float64(), "largest |correlation| of a latent with a category of question, mean over "
           "latents that are active; null where none varies"),
    column("r_position", pa.float64(), "|correlation| with the token's position, likewise"),
    *_STATUS,
])  # fmt: skip

_CHANNELS = 5
_BEFORE, _BEHIND = 8, 3  # tokens shown around one


def number(value: float) -> float | None:
    """None for what is not finite."""
    return value if math.isfinite(value) else None


def feature_rows(
    about: dict[str, Any],
    dictionary: SparseDictionary,
    measured: Measured,
    found: Tensor,
    categories: Sequence[str],
    match: Tensor | None,
) -> list[dict[str, Any]]:
    """`FEATURES` of one autoencoder. found: `correlates.correlations` with position and categories; match (F,)."""
    density = floats(measured.density)
    order = np.argsort(-np.array(density), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    top = dictionary.W_dec.abs().topk(min(_CHANNELS, dictionary.width), 1).indices
    names = [f"r_{name}" for name in PROPERTIES] + ["r_position"]
    rows: list[dict[str, Any]] = []
    for latent in range(dictionary.n_latents):
        values = floats(found[latent])
        alive = density[latent] > 0
        of_categories = values[len(names) :]
        known = [at for at, value in enumerate(of_categories) if math.isfinite(value)]
        best = max(known, key=lambda at: abs(of_categories[at]), default=None)
        rows.append(about | {
            "latent": latent, "alive": alive, "density": density[latent], "density_rank": int(rank[latent]),
            "mean_active": float(measured.mean_active[latent]) if alive else None,
            "largest": float(measured.largest[latent]) if alive else None,
            "seed_match": None if match is None else float(match[latent]),
            **{name: number(value) for name, value in zip(names, values, strict=False)},
            "category": None if best is None else categories[best],
            "r_category": None if best is None else of_categories[best],
            "channels": ints(top[latent]), "status": "ok",
        })  # fmt: skip
    return rows


def strongest_associations(found: Tensor, measured: Measured) -> tuple[float | None, float | None]:
    """r_category and r_position of `BASELINES`, from `correlates.correlations`."""
    alive = found[measured.density > 0].abs()
    position = alive[:, len(PROPERTIES)]
    categories = alive[:, len(PROPERTIES) + 1 :].nan_to_num(-1.0)
    best = categories.amax(1) if categories.shape[1] else position[:0]
    best, position = best[best >= 0], position[torch.isfinite(position)]
    return (float(best.mean()) if len(best) else None, float(position.mean()) if len(position) else None)


def context_rows(
    about: dict[str, Any], measured: Measured, top: Top, rows: Sequence[int], tokens: pa.Table, latents: int
) -> list[dict[str, Any]]:
    """`CONTEXTS` of the latents that carry most. top: of tokens that are `rows` of the store's `tokens`."""
    carried = measured.density * measured.mean_active
    order = [i for i in ints(carried.argsort(descending=True, stable=True)) if float(carried[i]) > 0][:latents]
    found: list[dict[str, Any]] = []
    for latent in order:
        for place, (value, at) in enumerate(zip(floats(top.values[latent]), ints(top.rows[latent]), strict=True), 1):
            if value <= 0:
                break
            row = rows[at]
            start = max(0, row - _BEFORE)
            around: list[dict[str, Any]] = tokens.slice(start, row - start + _BEHIND + 1).to_pylist()
            this = around[row - start]
            words = [
                f"»{_word(one)}«" if one is this else _word(one)
                for one in around
                if one["question_id"] == this["question_id"]
            ]
            found.append(about | {
                "latent": latent, "rank": place, "value": value, "question_id": this["question_id"],
                "position": this["position"], "token": _word(this), "context": "".join(words), "status": "ok",
            })  # fmt: skip
    return found


def _word(token: dict[str, Any]) -> str:
    text = token.get("text")
    return f" {token['token']}" if text is None else str(text)


def spread_rows_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`SPREAD` of the rows of `SAES`: each measure over the seeds of one place and kind."""
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["layer"], row["site"], row["kind"]), []).append(row)
    found: list[dict[str, Any]] = []
    for (layer, site, kind), family in families.items():
        about = {"layer": layer, "site": site, "kind": kind}
        if family[0]["status"] != "ok":
            found.append(about | {"status": family[0]["status"], "reason": family[0]["reason"]})
            continue
        for measure in MEASURES:
            values = np.array([row[measure] for row in family if row.get(measure) is not None], np.float64)
            if len(values):
                found.append(about | {
                    "measure": measure, "seeds": len(values), "mean": float(values.mean()),
                    "sd": float(values.std(ddof=1)) if len(values) > 1 else None, "low": float(values.min()),
                    "high": float(values.max()), "status": "ok",
                })  # fmt: skip
    return found
