"""What a training run tells whoever watches it. The loop calls an observer and never prints.

An observer sees only copies of numbers: watching a run cannot change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StepReport:
    """One finished step. `step` counts from 1; a number that was not finite is None."""

    step: int
    loss: float | None
    answer_loss: float | None
    grad_norm: float | None
    lr: float
    tokens: int  # trained on so far
    tokens_per_second: float
    skipped: bool  # the update was left out because loss or gradient was not finite


class Observer(Protocol):
    """Receives what happens, in order."""

    def begin(self, first_step: int, total_steps: int, lines: list[str]) -> None:
        """The run is set up; `lines` say with what."""

    def step(self, report: StepReport) -> None:
        """A step is done."""

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """The held-out set was evaluated."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def warn(self, text: str) -> None:
        """Something that the reader must know to trust the result."""


class Silent:
    """Observes nothing."""

    def begin(self, first_step: int, total_steps: int, lines: list[str]) -> None: ...

    def step(self, report: StepReport) -> None: ...

    def evaluation(self, step: int, metrics: dict[str, float]) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...
