"""Chosen documents as if they lay one behind the other in one array; nothing is copied but what is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .token_corpus import Corpus


class DocumentStream:
    """The concatenation of `documents` (numbers in a corpus, in this order).

    Documents that lie side by side in a file are one piece, so the index has as many entries as there are gaps.
    """

    def __init__(self, corpus: Corpus, documents: NDArray[np.int64]) -> None:
        self._tokens = [folder.tokens.view(np.ndarray) for folder in corpus.folders]  # slices of a memmap are slow
        folder, offset = corpus.folder[documents], corpus.documents.offset[documents]
        length = corpus.documents.tokens[documents]
        gap = (offset[1:] != offset[:-1] + length[:-1]) | (folder[1:] != folder[:-1])
        first = np.flatnonzero(np.concatenate([[len(documents) > 0], gap]))
        self._folder, self._offset = folder[first], offset[first]
        ends = np.concatenate([[0], np.cumsum(length)])
        self._start = np.append(ends[first], ends[-1])  # of every piece in the stream, then the stream's length

    def __len__(self) -> int:
        return int(self._start[-1])

    def read(self, start: int, out: NDArray[np.int64]) -> NDArray[np.int64]:
        """`out` (N,), filled with tokens start..start+N-1 of the stream."""
        length = len(out)
        assert 0 <= start <= start + length <= len(self)
        piece, done = int(np.searchsorted(self._start, start, side="right")) - 1, 0
        while done < length:
            here = start + done
            take = min(length - done, int(self._start[piece + 1]) - here)
            place = int(self._offset[piece]) + here - int(self._start[piece])
            out[done : done + take] = self._tokens[self._folder[piece]][place : place + take]
            done, piece = done + take, piece + 1
        return out
