"""Texts to token ids, many at a time, as flat arrays: exactly the ids of the `tokenizers` library, nothing added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Encoder:
    """Encodes with `tokenizer`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def ids(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids of all texts behind each other (n,), and where each begins and the last ends (texts + 1,)."""
        found = [one.ids for one in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        offsets = np.zeros(len(found) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in found], out=offsets[1:])
        flat = np.fromiter((one for ids in found for one in ids), dtype=np.uint32, count=int(offsets[-1]))
        return flat, offsets
