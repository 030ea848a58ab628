"""Absorption and splitting of the classes of tokens in a store, as rows of the step `sae`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from ...engine.statuses import NOT_APPLICABLE
from ..sparse_probing import Bools, Probe
from .absorption import LEAST, Absorbed, absorption, class_probe
from .dictionary import SparseDictionary
from .material import Material
from .token_classes import ClassesOf, token_classes


class TokenClass(NamedTuple):
    """members (n,) of `Material.some`; probe: on the activations, None where it cannot be fitted."""

    name: str
    members: Bools
    probe: Probe | None


def classes_of(tokens: pa.Table, material: Material, classes: ClassesOf) -> list[TokenClass]:
    """Those with at least `LEAST` tokens on each side, by name."""
    texts: list[str | None] = tokens["text"].to_pylist()
    chosen: list[int] = material.rows.tolist()
    found = token_classes([texts[row] for row in chosen], classes)
    x = material.some(torch.arange(len(found)))
    result: list[TokenClass] = []
    for name in sorted({name for name in found if name is not None}):
        members = np.array([one == name for one in found], bool)
        if min(int((members & side).sum()) for side in (material.learning, ~material.learning)) >= LEAST:
            result.append(TokenClass(name, members, class_probe(x, members, material.learning)))
    return result


def absorption_rows(
    about: dict[str, Any], dictionary: SparseDictionary, material: Material, classes: Sequence[TokenClass]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """`ABSORPTION` of one autoencoder, and its means over classes, columns of `SAES`."""
    x = material.some(torch.arange(len(material.some)))
    rows: list[dict[str, Any]] = []
    found: list[Absorbed] = []
    for name, members, probe in classes:
        absorbed = absorption(dictionary, x, members, material.learning, probe)
        if absorbed is None:
            rows.append(about | {"class": name, "status": NOT_APPLICABLE})
            continue
        found.append(absorbed)
        rows.append(about | {
            "class": name, "tokens": absorbed.tokens, "probe_f1": absorbed.probe_f1, "main": list(absorbed.main),
            "splitting": absorbed.split, "sparse_f1": absorbed.sparse_f1, "full_absorption": absorbed.full,
            "absorption_fraction": absorbed.fraction, "absorbing": absorbed.absorbing, "status": "ok",
        })  # fmt: skip
    if not classes:
        rows.append(about | {"status": NOT_APPLICABLE})
    means: dict[str, Any] = {"classes": len(found)}
    if found:
        means |= {
            "absorption_fraction": float(np.mean([a.fraction for a in found])),
            "full_absorption": float(np.mean([a.full for a in found])),
            "splitting": float(np.mean([a.split for a in found])),
        }
    return rows, means
