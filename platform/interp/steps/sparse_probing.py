"""How few coordinates tell a label: k-sparse probes on latents of autoencoders, on channels and principal components.

Labels of the questions (each category, several hops, whether the text states the answer, whether the model answers
right) are read at the last token of each prompt, and whether a token belongs to the statement of the answer at every
token. For each k the k coordinates that tell the classes apart best are chosen and fitted on some groups of questions
and judged on the others, see `methods.sparse_probing`. A dictionary has found a label where few latents tell as much as
many, and more than as few channels, more than with shuffled labels, and more than in a model with shuffled weights.

Reading a label off is no proof that the model uses what it is read from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, field_validator

from ...runtime.plan import digest_of
from ..engine.columns import column
from ..engine.effort import passes
from ..engine.fitting import one_thread
from ..engine.places import SITE_WORDS
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Job, StepSettings, Tables, named_once, step
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.activation_store import Activations, Store, Stored
from ..methods.sae.examples import StoredExamples, moments
from ..methods.sae.material import Autoencoder, autoencoders_of
from ..methods.sparse_probing import Bools, Floats, Integers, Sparse, group_folds, shuffled, sparse_probes

_LEAST = 10  # examples of each class


class Settings(StepSettings):
    small = {"ks": (1, 2), "folds": 2, "draws": 1, "tokens": 200}

    ks: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16, 32)
    """numbers of coordinates"""
    folds: int = Field(4, ge=2, le=20)
    """of groups of questions, each judged once"""
    draws: int = Field(2, ge=1, le=100)
    """shuffled labels beside each"""
    tokens: int = Field(2000, ge=1)
    """tokens at most, evenly spread, for labels of single tokens"""

    @field_validator("ks")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        return tuple(sorted(named_once(value)))


SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
    column("label", pa.string(), "what is told: category=..., several hops, answer stated, answered right, in fact"),
    column("basis", pa.string(), "sae, KIND: latents of the first seed; channels; pca: principal components; channels, "
           "shuffled weights: of the model that has learnt nothing"),
    column("k", pa.int32(), "coordinates"),
    column("auroc", pa.float64(), "probability that a member scores above a non-member, on groups not fitted on"),
    column("f1", pa.float64(), "F1 there, at a probability of 1/2 with classes weighted equally"),
    column("auroc_shuffled", pa.float64(), "AUROC of the same with shuffled labels, mean of the draws"),
    column("selectivity", pa.float64(), "auroc less that"),
    column("coordinates", pa.list_(pa.int32()), "those chosen in the first fold, the best first"),
    column("tokens", pa.int32(), "examples"),
    column("members", pa.int32(), "of them with the label"),
    column("groups", pa.int32(), "groups of questions"),
    column("status", pa.string(), "ok; not_applicable: too few examples of a class, or no autoencoder"),
    column("reason", pa.string(), "why it is not ok"),
])  # fmt: skip

VIEW = View(
    "How few coordinates tell a label",
    "Probes of k coordinates, judged on questions of groups they were not fitted on. A dictionary has found a label "
    "where few latents tell it better than as few channels do. What shuffled labels reach is chance; what a model with "
    "shuffled weights reaches stands in the tokens, not in what was learnt.",
    (
        LinePart(x="k", y="auroc", group="basis", each=("label", "layer", "site"), only={"status": "ok"}, log_x=True,
                 title="{label}, block {layer}, {site}", x_label="coordinates", label="AUROC", words=SITE_WORDS),
        TablePart(
            title="With a single coordinate",
            only={"status": "ok", "k": 1},
            sort=("-selectivity",),
            top=40,
            words=SITE_WORDS,
            columns=(
                Column("layer"), Column("site"), Column("label"), Column("basis"), Column("coordinates"),
                Column("auroc", "AUROC"), Column("f1", "F1"), Column("auroc_shuffled", "shuffled labels"),
                Column("selectivity", form="signed"), Column("members"), Column("tokens"),
            ),
        ),
    ),
)  # fmt: skip


class _Label(NamedTuple):
    """rows of the store, whether each has the label, and its group."""

    name: str
    rows: Integers
    y: Bools
    groups: list[str]


@step(
    "sparse_probing", needs=("collect", "sae"), settings=Settings, seeded=True, view=VIEW, cost=passes(0, seconds=1.5)
)
def sparse_probing(job: Job) -> Tables:
    """Labels told by few latents, channels or principal components, on held-out questions."""
    store, found = Store.of(job), [one for one in autoencoders_of(job) if one.number == 0]
    if not found:
        nothing = {"status": NOT_APPLICABLE, "reason": "no autoencoder was trained"}
        return {"": pa.Table.from_pylist([nothing], schema=SCHEMA)}
    labels = list(_labels(store.tokens, job.settings.tokens))
    rows: list[dict[str, Any]] = []
    for layer, site in dict.fromkeys((one.layer, one.site) for one in found):
        here = [one for one in found if (one.layer, one.site) == (layer, site)]
        for label in labels:
            about = {
                "layer": layer, "site": site, "label": label.name, "tokens": len(label.y),
                "members": int(label.y.sum()), "groups": len(set(label.groups)),
            }  # fmt: skip
            if min(int(label.y.sum()), int((~label.y).sum())) < _LEAST:
                rows.append(about | {"status": NOT_APPLICABLE, "reason": f"fewer than {_LEAST} examples of a class"})
                continue
            with one_thread():
                for basis, x in _bases(job, store, store.place(layer, site), here, label.rows):
                    rows += [about | row for row in _probed(basis, x, label, job)]
    return {"": pa.Table.from_pylist(rows, schema=SCHEMA)}


def _labels(tokens: pa.Table, most: int) -> Iterator[_Label]:
    """Labels of questions at the last token of each, and of tokens at some of all."""
    rows: list[dict[str, Any]] = tokens.select(
        ["question_id", "group", "category", "hops", "answer_stated", "correct", "in_fact", "from_end"]
    ).to_pylist()
    last: dict[str, int] = {}
    for number, row in enumerate(rows):
        if row["question_id"] not in last or row["from_end"] < rows[last[row["question_id"]]]["from_end"]:
            last[row["question_id"]] = number
    ends = list(last.values())
    categories = sorted({rows[i]["category"] for i in ends} - {None})
    asked = [(f"category={name}", "category", name) for name in categories]
    asked += [("several hops", "hops", None), ("answer stated", "answer_stated", True)]
    asked += [("answered right", "correct", True)]
    for name, field, value in asked:
        known = [i for i in ends if rows[i][field] is not None]
        y = [rows[i]["hops"] > 1 if field == "hops" else rows[i][field] == value for i in known]
        yield _Label(name, np.array(known, np.int64), np.array(y, bool), [rows[i]["group"] for i in known])
    some = [i * len(rows) // min(most, len(rows)) for i in range(min(most, len(rows)))]
    y = [bool(rows[i]["in_fact"]) for i in some]
    yield _Label("in fact", np.array(some, np.int64), np.array(y, bool), [rows[i]["group"] for i in some])


def _bases(
    job: Job, store: Activations, place: Stored, here: list[Autoencoder], rows: Integers
) -> Iterator[tuple[str, Floats]]:
    """Coordinates (n, C) of the tokens `rows`, by the name of the basis."""
    x = store.values(place, rows)
    for one in here:
        yield f"sae, {one.kind}", one.dictionary.latents(x).double().numpy()
    yield "channels", x.double().numpy()
    mean, covariance = moments(StoredExamples(store, place, np.arange(store.tokens.num_rows)))
    components = torch.linalg.eigh(covariance).eigenvectors.flip(1)
    yield "pca", ((x.double() - mean) @ components).numpy()
    if any(row["weights"] == "shuffled" for row in job.upstream["collect"]["places"].to_pylist()):
        other = Store.of(job, "shuffled")
        yield "channels, shuffled weights", other.values(other.place(place.layer, place.site), rows).double().numpy()


def _probed(basis: str, x: Floats, label: _Label, job: Job) -> Iterator[dict[str, Any]]:
    settings = job.settings
    folds = group_folds(label.groups, min(settings.folds, len(set(label.groups))))
    found = sparse_probes(x, label.y, folds, settings.ks)
    if found is None:
        reason = "a fold has examples of one class only"
        yield {"basis": basis, "status": NOT_APPLICABLE, "reason": reason}
        return
    by_chance: list[list[Sparse]] = []
    for draw in range(settings.draws):
        y = shuffled(label.y, int(digest_of([job.seed, label.name, draw])[:15], 16))
        of_draw = sparse_probes(x, y, folds, settings.ks)
        if of_draw is not None:
            by_chance.append(of_draw)
    for at, one in enumerate(found):
        chance = float(np.mean([draw[at].auroc for draw in by_chance])) if by_chance else None
        yield {
            "basis": basis, "k": one.k, "auroc": one.auroc, "f1": one.f1, "auroc_shuffled": chance,
            "selectivity": None if chance is None else one.auroc - chance, "coordinates": list(one.coordinates),
            "status": "ok",
        }  # fmt: skip
