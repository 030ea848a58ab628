"""Vectors of many tokens as tensors in shards of bounded size, and as binary columns of Arrow tables on the way there.

A shard is a safetensors file in the folder of unfinished work, so that only the one that is being filled is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..engine.step import Tensors
from ..engine.tensor_parts import SUFFIX, StoredTensors, publish_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHARD = "shard-"


def bytes_of(values: Tensor, dtype: str) -> pa.Array:
    """Vectors (n, width) as n little-endian binary values."""
    stored = values.to(DTYPES[dtype]).contiguous()
    raw = stored.view(torch.uint8).numpy() if len(stored) else np.zeros((0, 0), np.uint8)
    width = values.shape[1] * stored.element_size()
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(raw.tobytes())])


def vectors_in(column: pa.ChunkedArray, width: int, dtype: str) -> Tensor:
    """The inverse of `bytes_of`: (n, width) in `dtype`; no value may be null."""
    size = width * torch.finfo(DTYPES[dtype]).bits // 8
    raw = b"".join(
        bytes(chunk.buffers()[1][chunk.offset * size : (chunk.offset + len(chunk)) * size])
        for chunk in column.chunks if len(chunk)
    )  # fmt: skip
    if not raw:  # torch reads no empty buffer
        return torch.zeros(0, width, dtype=DTYPES[dtype])
    return torch.frombuffer(bytearray(raw), dtype=DTYPES[dtype]).reshape(-1, width)


class ShardWriter:
    """Fills shards with rows for the tensors in `widths` (name -> numbers in a row). folder: where they are until they
    are published; None: they are held."""

    def __init__(self, widths: Mapping[str, int], dtype: str, shard_tokens: int, folder: Path | None) -> None:
        self.widths, self.dtype, self.size = widths, DTYPES[dtype], shard_tokens
        self.folder = folder
        self.shards: dict[str, Tensors] = {}
        self._held: dict[str, list[Tensor]] = {name: [] for name in widths}
        self._rows = 0

    def add(self, vectors: Mapping[str, Tensor]) -> None:
        """Rows (n, width) of every tensor, the next n of the store."""
        n = len(next(iter(vectors.values()))) if vectors else 0
        start = 0
        while start < n:
            taken = min(n - start, self.size - self._rows)
            for name, values in vectors.items():
                self._held[name].append(values[start : start + taken])
            self._rows += taken
            start += taken
            if self._rows == self.size:
                self._close()

    def finish(self) -> dict[str, Tensors]:
        """All shards by name, in order."""
        if self._rows:
            self._close()
        return self.shards

    def _close(self) -> None:
        name = f"{SHARD}{len(self.shards):05d}"
        tensors = {key: torch.cat(parts) for key, parts in self._held.items()}
        if self.folder is None:
            self.shards[name] = tensors
        else:
            path = self.folder / f"{name}{SUFFIX}"
            publish_tensors(tensors, path, {}, replace=True)
            self.shards[name] = StoredTensors(path)
        self._held = {key: [] for key in self._held}
        self._rows = 0
