"""Training on folders of tokens: sets in given proportions, held-out documents told by their hashes.

Every set is one stream of its training documents, and row i of it holds tokens [i*T, i*T + T], so that every token is
predicted once while a set is read once. Which set a row comes from is decided by the quota method, which row of it by a
keyed permutation for every reading. The recurrent state is reset where a document starts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...core.errors import InputError, UsageError, suggest
from ...datasets.tokens.division import Division, divide, without_near
from ...datasets.tokens.inspection import inspect
from ...datasets.tokens.mixture import Mixture, quotas
from ...datasets.tokens.stream import DocumentStream
from ...datasets.tokens.token_corpus import Corpus
from ...datasets.tokens.tokenizer import open_tokenizer
from ..data import Batch, Evaluation, data_source
from ..data_sections import TokensSection
from ..held_out import HeldOut, evaluate
from ..sampler import permuted
from ..train_config import TrainConfig

if TYPE_CHECKING:
    from ...datasets.records import Question
    from ...models import LanguageModel


@data_source("tokens")
class TokensSource:
    """Documents from token folders."""

    brings_tokenizer = True

    def __init__(self, config: TrainConfig, out: Path, *, dry_run: bool) -> None:
        self._config = config
        section = config.data.tokens
        self._corpus = corpus = Corpus.open(section.paths)
        own = corpus.folders[0]
        _, self.tokenizer = open_tokenizer(config.data.tokenizer or own.tokenizer.folder)
        if self.tokenizer.digest != own.manifest.tokenizer:
            raise InputError(
                f"{own.path} was made with another tokenizer than {self.tokenizer.folder}; tokenise it with that one, "
                "or leave data.tokenizer out"
            )
        self.digest = _digest(section, corpus, self.tokenizer.digest)
        self._division = divide(
            corpus, share=section.holdout_share, most_tokens=section.holdout_tokens, deduplicate=section.deduplicate
        )
        if not dry_run:
            begin = len(self.tokenizer.begin)
            folder = Path(section.cache) if section.cache else out / "data"
            share = inspect(
                corpus, self._division, self.tokenizer.size, section.shingle, (begin, 1) if begin else (1, 0), folder
            )
            self._division = without_near(self._division, share >= section.near_duplicate)
        if not len(self._division.held_out):
            raise InputError(
                f"{', '.join(section.paths)}: no document is left to hold out for evaluation; raise "
                f"data.tokens.holdout_share above {section.holdout_share:g}"
            )
        self._streams = [DocumentStream(corpus, documents) for documents in self._by_set(self._division.training)]
        self._rows = [max(0, len(stream) - 1) // config.sequence_length for stream in self._streams]
        sets = corpus.documents.sets
        self._mixture = Mixture(quotas(self._rows, _weights(section, sets, self._rows, config.sequence_length)))
        self._seeds = [
            config.seed ^ int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
            for name in sets
        ]
        self.counts, self.left_out = _counts(corpus, self._division), dict(self._division.left_out)
        self.description = self._described()

    def batch(self, step: int) -> Batch:
        """Rows of step `step`: an equal weight for every target."""
        size, length = self._config.batch_size, self._config.sequence_length
        rows = np.empty((size, length + 1), dtype=np.int64)
        for row, s, number in zip(rows, *self._mixture.draws(step * size, size), strict=True):
            epoch, index = divmod(int(number), self._rows[s])
            place = permuted(index, self._rows[s], self._seeds[s], epoch)
            self._streams[s].read(place * length, row)
        tokens = torch.from_numpy(rows)
        return Batch(tokens, torch.ones(size, length), tokens == self.tokenizer.start_id)

    def questions(self) -> list[Question]:
        """None: the held-out documents are text."""
        return []

    def evaluate(self, model: LanguageModel) -> Evaluation:
        """Loss, perplexity and bits per byte over all held-out documents, and over those of each set."""
        corpus, length = self._corpus, self._config.sequence_length
        held = {}
        for name, documents in zip(corpus.documents.sets, self._by_set(self._division.held_out), strict=True):
            if len(documents):
                stream = DocumentStream(corpus, documents)
                tokens = stream.read(0, np.empty(len(stream), dtype=np.int64))
                held[name] = HeldOut(tokens, int(corpus.documents.bytes[documents].sum()))
        return evaluate(model, held, self.tokenizer, length, self._config.evaluation.batch_size)

    def _by_set(self, documents: np.ndarray) -> list[np.ndarray]:
        codes = self._corpus.documents.set[documents]
        return [documents[codes == number] for number in range(len(self._corpus.documents.sets))]

    def _described(self) -> str:
        counts, sets = self.counts, self._corpus.documents.sets
        drawn = self._config.total_steps * self._config.batch_size * self._mixture.shares
        shares = [
            f"{name} {share:.2%} ({rows / self._rows[s]:.2f} epochs)"
            for s, (name, share, rows) in enumerate(zip(sets, self._mixture.shares, drawn, strict=True))
            if share
        ]
        unread = [name for name, share in zip(sets, self._mixture.shares, strict=True) if not share]
        left_out = [f"{n:,} {reason.replace('_', ' ')}" for reason, n in self.left_out.items() if n]
        return (
            f"{len(self._corpus.folders)} folders of tokens: {', '.join(self._config.data.tokens.paths)}; "
            f"{counts['training_tokens']:,} training tokens of {counts['training_documents']:,} documents, "
            f"{counts['held_out_tokens']:,} of {counts['held_out_documents']:,} held out; {', '.join(shares)}"
            + (f"; not read: {', '.join(unread)}" if unread else "")
            + (f"; left out: {', '.join(left_out)}" if left_out else "")
        )


def _digest(section: TokensSection, corpus: Corpus, tokenizer: str) -> str:
    settings = section.model_dump(mode="json", exclude={"paths", "cache"})
    return hashlib.sha256(json.dumps([1, corpus.digest, tokenizer, settings], sort_keys=True).encode()).hexdigest()


def _weights(section: TokensSection, sets: tuple[str, ...], rows: list[int], length: int) -> list[float]:
    """Of every set, checked."""
    for name, weight in section.weights.items():
        if name not in sets:
            raise UsageError(f"data.tokens.weights: no document is of the set {name!r}; {suggest(name, sets)}")
        if weight and not rows[sets.index(name)]:
            raise InputError(
                f"data.tokens.weights: the training documents of the set {name!r} do not fill one row of "
                f"sequence_length {length} + 1; give it weight 0 or a smaller sequence_length"
            )
    weights = [float(section.weights.get(name, 1)) for name in sets]
    if not any(weight and n for weight, n in zip(weights, rows, strict=True)):
        raise InputError(
            f"{', '.join(section.paths)}: no set with a weight fills one row of sequence_length {length} + 1; give "
            "more tokens, weights above 0 or a smaller sequence_length"
        )
    return weights


def _counts(corpus: Corpus, division: Division) -> dict[str, int]:
    tokens = corpus.documents.tokens
    return {
        "training_documents": len(division.training),
        "training_tokens": int(tokens[division.training].sum()),
        "training_copies": division.training_copies,
        "held_out_documents": len(division.held_out),
        "held_out_tokens": int(tokens[division.held_out].sum()),
    }
