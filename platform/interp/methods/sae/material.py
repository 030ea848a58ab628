"""What autoencoders are trained on and what they are judged by: rows of the activation store on two sides of a split.

Tokens of one group (a document, an entity) are on one side. The sides follow from the groups' names alone, so that
every analysis of the same store has the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ....runtime.plan import digest_of
from ..activation_store import Activations, Stored
from ..sparse_probing import Bools, Integers
from .dictionary import SparseDictionary
from .examples import StoredExamples, spread_rows

if TYPE_CHECKING:
    from ...engine.step import Job, Tables, Tensors


class Sides(NamedTuple):
    """Rows of the store, ascending: to learn from, and to judge by."""

    learn: Integers
    judge: Integers


class Material(NamedTuple):
    """Activations of one place: `learn` and `judge` of `Sides`; some of all tokens, `rows` (n,) of the store, evenly
    spread, and which of these are on the learning side."""

    place: Stored
    learn: StoredExamples
    judge: StoredExamples
    some: StoredExamples
    rows: Integers
    learning: Bools


class Autoencoder(NamedTuple):
    """One of the step `sae`. number: of its seed, from 0. held_out: share of the groups that it is judged by."""

    layer: int
    site: str
    kind: str
    number: int
    held_out: float
    dictionary: SparseDictionary


def held_out_groups(groups: Sequence[str], share: float) -> frozenset[str]:
    """About this share of the different groups, drawn by a digest of their names; at least one, and never all."""
    order = sorted(dict.fromkeys(groups), key=lambda group: digest_of(["held out", group]))
    return frozenset(order[: min(max(1, round(share * len(order))), len(order) - 1)])


def sides(tokens: pa.Table, share: float) -> Sides:
    """Of the store's tokens."""
    groups: list[str] = tokens["group"].to_pylist()
    held = held_out_groups(groups, share)
    out = np.array([group in held for group in groups], bool)
    return Sides(np.flatnonzero(~out), np.flatnonzero(out))


def material_of(store: Activations, place: Stored, split: Sides, most: int) -> Material:
    """Of one place; `some` are at most `most` tokens."""
    n = len(split.learn) + len(split.judge)
    rows: Integers = spread_rows(n, most).numpy()
    learning: Bools = np.isin(rows, split.learn)
    judge = split.judge[spread_rows(len(split.judge), most).numpy()]
    return Material(
        place, StoredExamples(store, place, split.learn), StoredExamples(store, place, judge),
        StoredExamples(store, place, rows), rows, learning,
    )  # fmt: skip


def known_of(tokens: pa.Table, rows: Integers) -> tuple[Tensor, list[str]]:
    """Position and membership of each category (len(rows), 1 + categories) of these tokens, and the categories."""
    positions: list[int] = tokens["position"].to_pylist()
    categories: list[str | None] = tokens["category"].to_pylist()
    names = sorted({name for name in categories if name is not None})
    number = {name: at for at, name in enumerate(names)}
    chosen: list[int] = rows.tolist()
    known = torch.zeros(len(chosen), 1 + len(names), dtype=torch.float64)
    known[:, 0] = torch.tensor([positions[row] for row in chosen], dtype=torch.float64)
    for at, row in enumerate(chosen):
        if (category := categories[row]) is not None:
            known[at, 1 + number[category]] = 1.0
    return known, names


def autoencoders(tables: Tables, tensors: Mapping[str, Tensors]) -> list[Autoencoder]:
    """Those in the tables and tensors of the step `sae`, in the order of its table."""
    found: list[Autoencoder] = []
    rows: list[dict[str, Any]] = tables["saes"].to_pylist()
    for row in rows:
        if row["status"] == "ok":
            dictionary = SparseDictionary.of(tensors[row["tensors"]], f"sae {row['tensors']}")
            about = (row["layer"], row["site"], row["kind"], row["seed"], row["held_out"])
            found.append(Autoencoder(*about, dictionary))
    return found


def autoencoders_of(job: Job) -> list[Autoencoder]:
    """`autoencoders` of a step that needs `sae`."""
    return autoencoders(job.upstream["sae"], job.upstream_tensors["sae"])
