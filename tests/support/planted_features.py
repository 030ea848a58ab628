"""Activations made of known sparse features, and stand-ins for what reads them; not a test file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from mplat.interp.methods.activation_store import Stored
from torch import Tensor


class PlantedFeatures(NamedTuple):
    """x (n, C) = codes (n, F) @ directions (F, C)."""

    directions: Tensor
    codes: Tensor
    x: Tensor


def planted_features(
    n: int = 4096, *, features: int = 24, width: int = 16, active: float = 2.0, even: bool = True, seed: int = 0
) -> PlantedFeatures:
    """Random unit directions with coefficients from 0.5 to 1.5, `active` of them a row on average. even: all as often;
    else the i-th in proportion to i^-0.6."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(features, width, generator=generator)
    directions = directions / directions.norm(dim=1, keepdim=True)
    often = torch.arange(1, features + 1) ** (0.0 if even else -0.6)
    often = (often * active / often.sum()).clamp(max=0.5)
    on = torch.rand(n, features, generator=generator) < often
    codes = on * (0.5 + torch.rand(n, features, generator=generator))
    return PlantedFeatures(directions, codes, codes @ directions)


class FakeStore:
    """An activation store of one place, in memory, with such labels as are given."""

    def __init__(self, x: Tensor, layer: int = 0, site: str = "resid_post", **labels: Any) -> None:
        n = len(x)
        self.x = x
        name = f"blocks.{layer}.{site}"
        self.places = (Stored(layer, site, name, tuple(x.shape[1:]), x[0].numel()),)
        columns = {
            "question_id": [f"q{i // 8}" for i in range(n)], "group": [f"g{i // 8}" for i in range(n)],
            "category": [None] * n, "position": [i % 8 for i in range(n)], "token": [i % 40 for i in range(n)],
            "text": [None] * n,
        }  # fmt: skip
        types = {"category": pa.string(), "text": pa.string()}
        self.tokens = pa.table({k: pa.array(v, types.get(k)) for k, v in (columns | labels).items()})

    def values(self, place: Stored, rows: Any = None) -> Tensor:
        chosen = np.arange(len(self.x)) if rows is None else np.asarray(rows)
        return self.x.flatten(1)[torch.from_numpy(chosen)].float()

    def batches(self, place: Stored, size: int) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(self.x), size):
            yield start, self.x.flatten(1)[start : start + size].float()
