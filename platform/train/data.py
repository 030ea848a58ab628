"""What a source of training data is, the registry of sources, and the thread that prepares batches ahead.

A source is one class with `@data_source("name")`. Its promise: `batch(step)` is a pure function of the step and of the
source's configuration. That is why a resumed run sees exactly the batches it would have seen, the only sampler state
is the step, and preparing batches in a background thread changes no number.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ..core.errors import UsageError, suggest
from ..core.registry import Registry
from ..datasets.tokens.tokenizer import TokenizerFacts
from .train_config import TrainConfig

if TYPE_CHECKING:
    from ..datasets.records import Question
    from ..models import LanguageModel


class Batch(NamedTuple):
    """Rows of one optimizer step; B rows of T targets.

    tokens (B, T+1) int64: inputs are [:, :-1], targets [:, 1:]. weights (B, T): weight of each target in the loss.
    reset (B, T+1) bool: True where a new packed document starts. answers (B, T) bool or None: targets that belong to an
    answer, whose loss is reported apart.
    """

    tokens: Tensor
    weights: Tensor
    reset: Tensor
    answers: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """Held-out metrics by name, and the one number by which checkpoints compete."""

    metrics: dict[str, float]
    score: float
    higher_is_better: bool

    def better_than(self, best: float | None) -> bool:
        """Whether this evaluation beats the best score so far."""
        return best is None or (self.score > best if self.higher_is_better else self.score < best)


class DataSource(Protocol):
    """What the training loop asks of a source."""

    tokenizer: TokenizerFacts
    digest: str  # changes with anything that could change a batch, other than seed and step
    description: str  # one line for the console
    counts: dict[str, int]  # how much of each kind is used, for run.json
    left_out: dict[str, int]  # why something is not used, and how much of it
    brings_tokenizer: ClassVar[bool] = False  # of its own, which `data.tokenizer` does not change

    def __init__(self, config: TrainConfig, out: Path, *, dry_run: bool) -> None:
        """Open the data. With `dry_run` check what can be checked quickly and write nothing."""

    def batch(self, step: int) -> Batch:
        """The rows of optimizer step `step`, counted from 0."""
        ...

    def questions(self) -> list[Question]:
        """The questions that `evaluate` asks; none where it reads text."""
        ...

    def evaluate(self, model: LanguageModel) -> Evaluation:
        """Held-out metrics of the model as it is now; leaves model and random generators untouched."""
        ...


SOURCES: Registry[type[DataSource]] = Registry("data source", "data_source", __name__)
data_source, source_names = SOURCES.itself, SOURCES.names


def open_source(config: TrainConfig, out: Path, *, dry_run: bool = False) -> DataSource:
    """The configured source, opened. Raises UsageError for an unknown name."""
    name = config.data.source
    if name not in source_names():
        raise UsageError(f"data.source {name!r} is not a data source; {suggest(name, source_names())}")
    return SOURCES.get(name)(config, out, dry_run=dry_run)


def batches(source: DataSource, first: int, end: int, *, reset: bool = True) -> Generator[Batch, None, None]:
    """The batches of steps first..end-1 in order, each prepared by one thread while the previous one is trained on.

    Without `reset` no document starts anew in them: states and convolutions go on through a row.
    An error in the source is raised here, at the step it belongs to. Closing the iterator ends the thread.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as executor:
        pending: Future[Batch] | None = None
        for step in range(first, end):
            current = pending or executor.submit(source.batch, step)
            batch = current.result()
            pending = executor.submit(source.batch, step + 1) if step + 1 < end else None
            yield batch if reset else batch._replace(reset=torch.zeros_like(batch.reset))
