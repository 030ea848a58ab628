"""A sparse dictionary learnt without an encoder, beside the autoencoders of the same activations.

scikit-learn's MiniBatchDictionaryLearning on the tokens that the step `sae` trained on, judged on the same held-out
ones: what it explains with as many atoms a token as each autoencoder has latents active, and how far the two
dictionaries are the same (mean max cosine, of either sign, beside random directions of the same number). The
autoencoder's own directions are also used without its encoder, by pursuit: what that explains more is what its encoder
loses.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch
from pydantic import Field

from ...core.errors import InputError
from ...runtime.plan import digest_of
from ..engine.columns import column
from ..engine.effort import passes
from ..engine.fitting import one_thread
from ..engine.places import SITE_WORDS
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Job, StepOutput, StepSettings, step
from ..engine.view import BarPart, Column, TablePart, View
from ..methods.activation_store import Store
from ..methods.dictionary_learning import Learned, explained, learn_dictionary
from ..methods.sae.examples import StoredExamples, moments, spread_rows
from ..methods.sae.material import Autoencoder, autoencoders_of, sides
from ..methods.sae.measures import mean_max_cosine, measure
from ..methods.superposition import random_directions


class Settings(StepSettings):
    small = {"rounds": 1, "tokens": 200, "judged": 50, "batch_size": 64}

    penalty: float = Field(0.3, gt=0)
    """weight of the codes' sum, where inputs have a mean square of 1 a channel, in units of sqrt(width)"""
    rounds: int = Field(5, ge=1)
    """through the training tokens"""
    batch_size: int = Field(256, ge=1)
    tokens: int = Field(20_000, ge=1)
    """tokens at most, evenly spread, that it is trained on"""
    judged: int = Field(500, ge=1)
    """held-out tokens at most, evenly spread, that all are judged by; pursuit takes time"""


SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
    column("kind", pa.string(), "kind of the autoencoder (its first seed) whose L0 is taken and that is compared with"),
    column("of", pa.string(), "dictionary: learnt here, codes by orthogonal matching pursuit; sae: the autoencoder; "
           "sae, pursuit: its directions, without its encoder; pca: all principal components, pursuit; random: as many "
           "random directions as the autoencoder has, pursuit"),
    column("atoms", pa.int32(), "directions"),
    column("k", pa.int32(), "atoms a token: the autoencoder's L0, rounded; null for the autoencoder itself"),
    column("l0", pa.float64(), "active atoms a token"),
    column("explained_variance", pa.float64(), "of held-out activations"),
    column("to_sae", pa.float64(), "mean over its atoms of the largest |cosine| with a direction of the autoencoder"),
    column("from_sae", pa.float64(), "mean over the autoencoder's directions of the largest |cosine| with an atom"),
    column("status", pa.string(), "ok; not_applicable: there is no autoencoder, or nothing to learn from"),
    column("reason", pa.string(), "why it is not ok"),
])  # fmt: skip

VIEW = View(
    "A dictionary without an encoder, beside the autoencoder",
    "All use as many directions a token. Pursuit finds the best codes it can, so the learnt dictionary may explain "
    "more than an autoencoder without being nearer to the truth; the cosines say how far both found the same "
    "directions, and those of random directions what there is by chance.",
    (
        BarPart(x="of", y="explained_variance", group="kind", each=("layer", "site"), only={"status": "ok"},
                title="Explained variance at equal L0, block {layer}, {site}", label="explained variance",
                words=SITE_WORDS),
        TablePart(
            only={"status": "ok"},
            words=SITE_WORDS,
            columns=(
                Column("layer"), Column("site"), Column("kind"), Column("of", "dictionary"), Column("atoms"),
                Column("l0", "L0"), Column("explained_variance", "explained variance"),
                Column("to_sae", "cosine with the autoencoder", absent="–"),
                Column("from_sae", "of the autoencoder with it", absent="–"),
            ),
        ),
    ),
)  # fmt: skip


@step("dictionary", needs=("collect", "sae"), settings=Settings, seeded=True, view=VIEW, cost=passes(1, seconds=12.0))
def dictionary(job: Job) -> StepOutput:
    """A dictionary learnt by scikit-learn on the activations of the autoencoders, compared with them."""
    found = [one for one in autoencoders_of(job) if one.number == 0]
    rows: list[dict[str, Any]] = []
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for layer, site in dict.fromkeys((one.layer, one.site) for one in found):
        here = [one for one in found if (one.layer, one.site) == (layer, site)]
        with one_thread():
            learnt, of_place = _place(job, layer, site, here)
        rows += of_place
        tensors |= {
            f"{layer}-{site}-{atoms}": {"atoms": one.atoms, "centre": one.mean} for atoms, one in learnt.items()
        }
    if not found:
        rows.append({"status": NOT_APPLICABLE, "reason": "no autoencoder was trained"})
    return StepOutput({"": pa.Table.from_pylist(rows, schema=SCHEMA)}, tensors)


def _place(job: Job, layer: int, site: str, here: list[Autoencoder]) -> tuple[dict[int, Learned], list[dict[str, Any]]]:
    """One dictionary for each number of latents, by that number, and the rows of the place."""
    settings, store = job.settings, Store.of(job)
    split = sides(store.tokens, here[0].held_out)
    place = store.place(layer, site)
    few = split.learn[spread_rows(len(split.learn), settings.tokens).numpy()]
    learn = StoredExamples(store, place, few)
    some = split.judge[spread_rows(len(split.judge), settings.judged).numpy()]
    judge = StoredExamples(store, place, some)
    x = judge(torch.arange(len(judge)))
    mean, covariance = moments(learn)
    components = torch.linalg.eigh(covariance).eigenvectors.T
    learnt: dict[int, Learned] = {}
    rows: list[dict[str, Any]] = []
    for one in here:
        n, about = one.dictionary.n_latents, {"layer": layer, "site": site, "kind": one.kind}
        if n not in learnt:
            seed = int(digest_of([job.seed, "dictionary", place.name, n])[:8], 16)
            try:
                learnt[n] = learn_dictionary(learn, n, penalty=settings.penalty, rounds=settings.rounds,
                                             batch_size=settings.batch_size, seed=seed)  # fmt: skip
            except InputError as error:
                rows.append(about | {"status": NOT_APPLICABLE, "reason": str(error)})
                continue
        measured = measure(one.dictionary, judge)
        rows.append(about | {
            "of": "sae", "atoms": n, "l0": measured.l0, "explained_variance": measured.explained_variance,
            "status": "ok",
        })  # fmt: skip
        directions = one.dictionary.W_dec
        random = random_directions(n, place.width, job.seed)
        for name, centre, atoms in (
            ("dictionary", learnt[n].mean, learnt[n].atoms), ("sae, pursuit", one.dictionary.b_dec, directions),
            ("pca", mean, components), ("random", mean, random),
        ):  # fmt: skip
            k = min(max(1, round(measured.l0)), *atoms.shape)
            itself = name == "sae, pursuit"
            rows.append(about | {
                "of": name, "atoms": len(atoms), "k": k, "l0": float(k),
                "explained_variance": explained(x, centre, atoms, k),
                "to_sae": None if itself else mean_max_cosine(atoms, directions, signed=False),
                "from_sae": None if itself else mean_max_cosine(directions, atoms, signed=False), "status": "ok",
            })  # fmt: skip
    return learnt, rows
