"""What only a look at all tokens can say of a corpus, said once: its file is read where it is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.json_files import read_object
from ...core.whole_files import publish_json
from .division import Division
from .duplicates import nearest
from .token_corpus import Corpus

_VERSION = 1


def inspect(
    corpus: Corpus, division: Division, vocabulary: int, shingle: int, layout: tuple[int, int], folder: Path
) -> NDArray[np.float64]:
    """For each held-out document (H,) the largest share of its shingles that one training document holds: `nearest`.

    Kept in `folder`/KEY.near.json, with the hashes of both documents, so that a share can be looked into. Raises
    InputError where a token is beyond the `vocabulary`, or where that file is damaged.
    """
    documents = corpus.documents
    hashes = [f"{value:016x}" for value in documents.hash[division.held_out]]
    training = hashlib.sha256(division.training.tobytes()).hexdigest()
    key = json.dumps([_VERSION, corpus.digest, vocabulary, shingle, layout, training, hashes])
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.near.json"
    if not path.exists():
        corpus.check_vocabulary(vocabulary)
        near = nearest(corpus, division.held_out, division.training, shingle, layout)
        sources = [f"{documents.hash[number]:016x}" if number >= 0 else None for number in near.document]
        folder.mkdir(parents=True, exist_ok=True)
        publish_json({"held_out": hashes, "share": near.share.tolist(), "training": sources}, path)
    kept = read_object(path)
    if kept.get("held_out") != hashes or len(kept.get("share", ())) != len(hashes):
        raise InputError(f"{path}: damaged; delete it, it is made again")
    return np.array(kept["share"], dtype=np.float64)
