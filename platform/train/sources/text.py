"""Training on documents: rows of a token stream in keyed random order; held-out loss, perplexity, bits per byte.

Row i holds tokens [i*T, i*T + T] of the training stream, so that every token is predicted once an epoch. The recurrent
state is reset where a document starts. Bits per byte counts the text's own bytes and no separators, which makes models
with different tokenizers comparable.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...core.errors import InputError
from ..data import Batch, Evaluation, data_source
from ..loss import token_losses
from ..sampler import rows_of_step
from ..token_store import TokenStore, open_store, store_key
from ..tokenizer import open_tokenizer
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

    @torch.no_grad()
    def questions(self) -> list[Question]:
        """None: the held-out stream is text."""
        return []

    def evaluate(self, model: LanguageModel) -> Evaluation:
        """Loss, perplexity and bits per byte over the whole held-out stream."""
        assert self._store is not None
        length, rows_at_once = self._config.sequence_length, self._config.evaluation.batch_size
        stream = torch.from_numpy(self._store.holdout.astype(np.int64))
        n_targets = len(stream) - 1
        n_rows = -(-n_targets // length)
        padded = torch.full((n_rows * length + 1,), self.tokenizer.eos_id)
        padded[: len(stream)] = stream
        rows = padded.unfold(0, length + 1, length)
        real = (torch.arange(n_rows * length) < n_targets).view(n_rows, length)
        device = next(model.parameters()).device
        separators = torch.tensor([self.tokenizer.eos_id, *self.tokenizer.begin], device=device)
        nats = text_nats = 0.0
        for start in range(0, n_rows, rows_at_once):
            tokens, counted = (
                rows[start : start + rows_at_once].to(device),
                real[start : start + rows_at_once].to(device),
            )
            inputs, targets = tokens[:, :-1], tokens[:, 1:]
            nll = token_losses(model(inputs, reset=inputs == self.tokenizer.start_id), targets).double() * counted
            nats += nll.sum().item()
            text_nats += (nll * ~torch.isin(targets, separators)).sum().item()
        loss = nats / n_targets
        metrics = {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),  # beyond this a double overflows
            "bits_per_byte": text_nats / math.log(2) / self._store.facts.holdout_bytes,
        }
        return Evaluation(metrics, loss, higher_is_better=False)
