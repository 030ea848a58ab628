"""Training on addition modulo p: a fixed part of all equations, the others held out; the loss is that of the answer.

A step reads all equations that are trained on, in one order (full batch), or `batch_size` of them in keyed random
order. Beside the tokenizer's files `data/` in the run's folder has `questions.jsonl`: every equation with its side, for
`mplat interp --questions`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...core.whole_files import publish_bytes
from ...datasets import modular_addition as task
from ...datasets.tokens.tokenizer import TokenizerFacts
from ..data import Batch, Evaluation, data_source
from ..loss import token_losses
from ..sampler import rows_of_step
from ..train_config import TrainConfig

if TYPE_CHECKING:
    from ...datasets.records import Question
    from ...models import LanguageModel


@data_source("modular_addition")
class ModularAdditionSource:
    """Equations a b = c."""

    brings_tokenizer = True

    def __init__(self, config: TrainConfig, out: Path, *, dry_run: bool) -> None:
        section = config.data.modular_addition
        self._config, self._p, self._fraction = config, section.p, section.train_fraction
        rows = torch.from_numpy(task.equations(section.p))
        seen = torch.from_numpy(task.trained_on(section.p, section.train_fraction, config.seed))
        self._trained, self._held_out = rows[seen], rows[~seen]
        self._check(config)
        files = task.tokenizer_files(section.p)
        digest = hashlib.sha256(b"".join(name.encode() + b"\0" + content for name, content in files.items()))
        vocabulary, folder = task.vocabulary(section.p), out / "data" / "tokenizer"
        self.tokenizer = TokenizerFacts(folder, len(vocabulary), vocabulary[task.END], digest.hexdigest())
        self.digest = hashlib.sha256(rows[seen].numpy().tobytes() + digest.digest()).hexdigest()
        self.counts: dict[str, int] = {}
        self.left_out: dict[str, int] = {}
        self.description = (
            f"addition modulo {section.p}: {len(self._trained):,} equations to train on, {len(self._held_out):,} held "
            f"out, {config.batch_size:,} a step"
        )
        if dry_run:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            publish_bytes(content, folder / name)
        publish_bytes(
            task.question_lines(section.p, section.train_fraction, config.seed), out / "data" / "questions.jsonl"
        )

    def _check(self, config: TrainConfig) -> None:
        length, rows = self._trained.shape[1] - 1, len(self._trained)
        if config.sequence_length != length:
            raise UsageError(f"sequence_length {config.sequence_length}: an equation has {length} tokens before its "
                             "last; leave it out")  # fmt: skip
        if config.batch_size > rows:
            raise UsageError(f"batch_size {config.batch_size}: there are {rows} equations to train on; leave it out to "
                             "read all of them in each step")  # fmt: skip
        if config.data.tokenizer is not None:
            raise UsageError("data.tokenizer: modular addition has a tokenizer of its own; leave it out")

    def batch(self, step: int) -> Batch:
        """Rows of step `step`: the answer is the only target."""
        rows, size = self._trained, self._config.batch_size
        if size < len(rows):
            rows = rows[torch.from_numpy(rows_of_step(step, size, len(rows), self._config.seed))]
        answers = torch.zeros(len(rows), rows.shape[1] - 1, dtype=torch.bool)
        answers[:, -1] = True
        return Batch(rows, answers.float(), torch.zeros_like(rows, dtype=torch.bool), answers)

    def questions(self) -> list[Question]:
        """Those held out."""
        every = task.questions(self._p, self._fraction, self._config.seed)
        return [question for question in every if question.category == task.HELD_OUT]

    def evaluate(self, model: LanguageModel) -> Evaluation:
        """Loss and share of right answers, of the equations held out and of those trained on."""
        metrics: dict[str, float] = {}
        for prefix, rows in (("", self._held_out), ("train_", self._trained)):
            losses, right = self._answers(model, rows)
            metrics |= {f"{prefix}loss": float(losses.mean()), f"{prefix}accuracy": float(right.double().mean())}
        return Evaluation(metrics, metrics["loss"], higher_is_better=False)

    @torch.no_grad()
    def _answers(self, model: LanguageModel, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,), float64, and whether it is right (B,), of the answer of each row."""
        device, losses, right = next(model.parameters()).device, [], []
        for part in rows.split(self._config.evaluation.batch_size):
            inputs, answers = part[:, :-1].to(device), part[:, -1:].to(device)
            logits = model(inputs, last_only=True)
            losses.append(token_losses(logits, answers)[:, 0].double().cpu())
            right.append((logits.argmax(-1) == answers)[:, 0].cpu())
        return torch.cat(losses), torch.cat(right)
