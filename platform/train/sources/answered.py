"""Training on texts with marked answers: answers weigh more in the loss than what stands around them, or alone.

A row is made of whole texts, each followed by the end-of-text token, and filled up with it; a text longer than a row
is cut into pieces, each of which opens with the last token of the piece before. So every token of every text but its
first is a target once an epoch. A token belongs to an answer where it shares a character with it. The recurrent state
starts anew with every text. All tokens are held in memory, 5 bytes each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.errors import InputError
from ...datasets.readers.answered import AnsweredText, read
from ...datasets.tokens.tokenizer import open_tokenizer
from ..data import Batch, Evaluation, data_source
from ..data_sections import AnsweredSection
from ..loss import weighted_loss
from ..sampler import rows_of_step
from ..train_config import TrainConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ...datasets.records import Question
    from ...models import LanguageModel

OTHER, ANSWER, START, FILLER = range(4)  # what a token is; the first of a text is START even where it is an answer
_AT_ONCE = 4096


class Rows(NamedTuple):
    """tokens (N, T+1) uint32 and what each of them is (N, T+1) uint8."""

    tokens: NDArray[np.uint32]
    kinds: NDArray[np.uint8]


@data_source("answered")
class AnsweredSource:
    """Texts whose answers are marked, or prompts with their completions."""

    brings_tokenizer = False

    def __init__(self, config: TrainConfig, out: Path, *, dry_run: bool) -> None:
        self._config = config
        section = config.data.answered
        encoder, self.tokenizer = open_tokenizer(config.data.tokenizer)
        self.digest = _digest(section, self.tokenizer.digest)
        self.description = f"{len(section.paths)} files: {', '.join(section.paths)}"
        self.counts: dict[str, int] = {}
        self.left_out: dict[str, int] = {}
        if dry_run:
            next(read(section.paths), None)
            return
        parts: dict[str, list[AnsweredText]] = {"training": [], "held_out": []}
        for number, text in enumerate(read(section.paths), 1):
            held_out = number % section.holdout_every == 2 % section.holdout_every
            parts["held_out" if held_out else "training"].append(text)
        rows = {
            name: packed(encoded(texts, encoder, self.tokenizer.eos_id), config.sequence_length, self.tokenizer.eos_id)
            for name, texts in parts.items()
        }
        self._training, self._held_out = rows["training"], rows["held_out"]
        for name, found in rows.items():
            self.counts |= {f"{name}_documents": len(parts[name]), f"{name}_tokens": int((found.kinds < FILLER).sum())}
            self.counts[f"{name}_answer_tokens"] = answers = int((found.kinds == ANSWER).sum())
            if not answers:
                raise InputError(
                    f"{', '.join(section.paths)}: {len(parts[name])} {name.replace('_', '-')} texts have no token of "
                    "an answer; give at least two texts with marked answers, or lower data.answered.holdout_every"
                )
        shown = self.counts["training_tokens"]
        self.description += (
            f"; {self.counts['training_documents']:,} texts of {shown:,} tokens, "
            f"{self.counts['training_answer_tokens']:,} of them of answers "
            f"({config.total_steps * config.batch_size / len(self._training.tokens):.2f} epochs), "
            f"{self.counts['held_out_documents']:,} texts held out"
        )

    def batch(self, step: int) -> Batch:
        """Rows of step `step`, in the order of the files or in keyed random order."""
        size, n = self._config.batch_size, len(self._training.tokens)
        if self._config.data.answered.order == "random":
            chosen = rows_of_step(step, size, n, self._config.seed)
        else:
            chosen = np.arange(step * size, (step + 1) * size) % n
        return self._batch(self._training, chosen)

    def _batch(self, rows: Rows, chosen: NDArray[np.int64]) -> Batch:
        section = self._config.data.answered
        kinds = torch.from_numpy(rows.kinds[chosen])
        answers = kinds[:, 1:] == ANSWER
        weights = section.answer_weight * answers.float() + section.context_weight * (kinds[:, 1:] == OTHER).float()
        return Batch(torch.from_numpy(rows.tokens[chosen].astype(np.int64)), weights, kinds >= START, answers)

    def questions(self) -> list[Question]:
        """None: answers are scored where they stand."""
        return []

    @torch.no_grad()
    def evaluate(self, model: LanguageModel) -> Evaluation:
        """Mean loss of the held-out texts' answer tokens in nats, and the share of them that is the argmax."""
        rows, at_once = self._held_out, self._config.evaluation.batch_size
        device = next(model.parameters()).device
        nats = right = count = 0.0
        for start in range(0, len(rows.tokens), at_once):
            batch = self._batch(rows, np.arange(start, min(start + at_once, len(rows.tokens))))
            tokens, reset = batch.tokens.to(device), batch.reset.to(device)
            assert batch.answers is not None
            counted = batch.answers.to(device)
            _, losses = weighted_loss(model, tokens, counted.float(), reset)
            nats += (losses.double() * counted).sum().item()
            best = model(tokens[:, :-1], reset=reset[:, :-1]).argmax(-1)
            right += ((best == tokens[:, 1:]) & counted).sum().item()
            count += counted.sum().item()
        metrics = {"answer_loss": nats / count, "answer_accuracy": right / count}
        return Evaluation(metrics, metrics["answer_loss"], higher_is_better=False)


def encoded(texts: Iterable[AnsweredText], encoder: Tokenizer, end: int) -> Iterator[Rows]:
    """Every text as one row of its own length: its tokens, the end-of-text token, and what they are."""
    waiting = iter(texts)
    while some := list(islice(waiting, _AT_ONCE)):
        for text, found in zip(
            some, encoder.encode_batch([t.text for t in some], add_special_tokens=False), strict=True
        ):
            tokens = np.array([*found.ids, end], dtype=np.uint32)
            kinds = np.full(len(tokens), OTHER, dtype=np.uint8)
            first, last = np.array(found.offsets, dtype=np.int64).reshape(-1, 2).T
            for start, stop in text.answers:
                kinds[:-1][(first < stop) & (last > start)] = ANSWER
            if text.ends:
                kinds[-1] = ANSWER  # who is to stop after an answer learns it here
            kinds[0] = START
            yield Rows(tokens, kinds)


def packed(texts: Iterable[Rows], length: int, end: int) -> Rows:
    """Texts in rows of `length` targets, T = length."""
    width = length + 1
    tokens: list[NDArray[np.uint32]] = []
    kinds: list[NDArray[np.uint8]] = []
    room = 0
    for text in texts:
        for start in range(0, max(1, len(text.tokens) - 1), length):
            piece = Rows(text.tokens[start : start + width], text.kinds[start : start + width])
            size = len(piece.tokens)
            if size > room:
                tokens.append(np.full(width, end, dtype=np.uint32))
                kinds.append(np.full(width, FILLER, dtype=np.uint8))
                room = width
            at = width - room
            tokens[-1][at : at + size] = piece.tokens
            kinds[-1][at : at + size] = piece.kinds
            if start:
                kinds[-1][at] = START  # it was a target at the end of the piece before
            room -= size
    if not tokens:
        return Rows(np.empty((0, width), np.uint32), np.empty((0, width), np.uint8))
    return Rows(np.stack(tokens), np.stack(kinds))


def _digest(section: AnsweredSection, tokenizer: str) -> str:
    """Of the files' bytes, the tokenizer, and what decides what is trained on."""
    if not section.paths:
        raise InputError("data.source is answered but data.answered.paths is empty; name a file there")
    parts: list[object] = [1, tokenizer, section.model_dump(mode="json", exclude={"paths"})]
    for name in section.paths:
        try:
            with Path(name).open("rb") as file:
                parts.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InputError(
                f"data file {name}: cannot be read ({error.strerror}); check data.answered.paths"
            ) from error
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
