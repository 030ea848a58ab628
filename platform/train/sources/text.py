"""Training on documents: rows of a token stream in keyed random order; held-out loss, perplexity, bits per byte.

Row i holds tokens [i*T, i*T + T] of the training stream, so that every token is predicted once an epoch. The recurrent
state is reset where a document starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...core.errors import InputError
from ...datasets.tokens.tokenizer import open_tokenizer
from ..data import Batch, Evaluation, data_source
from ..held_out import HeldOut, evaluate
from ..sampler import rows_of_step
from ..token_store import TokenStore, open_store, store_key
from ..train_config import TrainConfig

if TYPE_CHECKING:
    from ...datasets.records import Question
    from ...models import LanguageModel


@data_source("text")
class TextSource:
    """Documents from files."""

    brings_tokenizer = False

    def __init__(self, config: TrainConfig, out: Path, *, dry_run: bool) -> None:
        self._config = config
        section = config.data.text
        encoder, self.tokenizer = open_tokenizer(config.data.tokenizer)
        self.digest = store_key(section, self.tokenizer)
        self.description = f"{len(section.paths)} files: {', '.join(section.paths)}"
        self.counts: dict[str, int] = {}
        self.left_out: dict[str, int] = {}
        self._store: TokenStore | None = None
        if dry_run:
            return
        self._store = open_store(
            Path(section.cache) if section.cache else out / "data", section, encoder, self.tokenizer
        )
        facts, length = self._store.facts, config.sequence_length
        self._n_rows = (facts.train_tokens - 1) // length
        if self._n_rows < 1:
            raise InputError(
                f"{', '.join(section.paths)}: {facts.train_tokens} training tokens do not fill one row of "
                f"sequence_length {length} + 1; give more text or a smaller sequence_length"
            )
        if facts.holdout_tokens < 2:
            raise InputError(
                f"{', '.join(section.paths)}: {facts.documents} documents leave none to hold out for evaluation; "
                "give at least two"
            )
        self.counts = {
            "training_documents": facts.documents - facts.holdout_documents,
            "training_tokens": facts.train_tokens,
            "held_out_documents": facts.holdout_documents,
            "held_out_tokens": facts.holdout_tokens,
        }
        self.left_out = facts.bad_lines
        skipped = f", {sum(facts.bad_lines.values())} broken lines skipped" if facts.bad_lines else ""
        self.description += (
            f"; {facts.documents:,} documents, {facts.train_tokens:,} training tokens "
            f"({config.total_steps * config.tokens_per_step / facts.train_tokens:.2f} epochs), "
            f"{facts.holdout_tokens:,} held out{skipped}"
        )

    def batch(self, step: int) -> Batch:
        """Rows of step `step`: an equal weight for every target."""
        assert self._store is not None
        length = self._config.sequence_length
        starts = rows_of_step(step, self._config.batch_size, self._n_rows, self._config.seed) * length
        rows = self._store.train[starts[:, None] + np.arange(length + 1)]
        tokens = torch.from_numpy(rows.astype(np.int64))
        return Batch(tokens, torch.ones(len(tokens), length), tokens == self.tokenizer.start_id)

    def questions(self) -> list[Question]:
        """None: the held-out stream is text."""
        return []

    def evaluate(self, model: LanguageModel) -> Evaluation:
        """Loss, perplexity and bits per byte over the whole held-out stream."""
        assert self._store is not None
        held = HeldOut(self._store.holdout, self._store.facts.holdout_bytes)
        length, rows_at_once = self._config.sequence_length, self._config.evaluation.batch_size
        return evaluate(model, {"": held}, self.tokenizer, length, rows_at_once)
