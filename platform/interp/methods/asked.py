"""What every method of this package checks and says: positions, finite logits, evaluation mode, and about its runs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.errors import InputError, UsageError
from ...models.lending import label
from ..engine.places import check_layers
from .arguments import integers
from .corruption import Corruption
from .metric import Metric

if TYPE_CHECKING:
    from ...models import LanguageModel


def prompt_positions(positions: Sequence[int] | None, length: int, what: str = "positions") -> list[int]:
    """Ascending positions 0 to length - 1, negative ones counted from the end; None is all. what: for errors.

    Raises UsageError for one that the prompt does not have, for one named twice, and for none.
    """
    if positions is None:
        return list(range(length))
    positions = integers(positions, what)
    outside = next((p for p in positions if not -length <= p < length), None)
    if outside is not None:
        raise UsageError(f"{what}: there is no position {outside} in a prompt of {length} tokens (0 to {length - 1})")
    ascending = sorted({p % length for p in positions})
    if len(ascending) != len(positions) or not ascending:
        raise UsageError(f"{what} {list(positions)}: name at least one, and each of them once")
    return ascending


def chosen_layers(model: LanguageModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Ascending numbers of blocks; None is all. Raises UsageError for what is none of the model's."""
    return check_layers(None if layers is None else integers(layers, "layers"), model.n_layers)


def check_finite(model: LanguageModel, clean: Tensor, corrupted: Tensor | None = None) -> None:
    """Raise InputError where logits of the clean or of the corrupted run are not finite."""
    for what, logits in (("clean", clean), ("corrupted", corrupted)):
        if logits is not None and not bool(torch.isfinite(logits).all()):
            raise InputError(
                f"model {model.name}: the {what} run's logits are not finite; nothing can be traced. Check the weights"
                " (mplat doctor), or take float32 or float64"
            )


@contextmanager
def evaluating(model: LanguageModel) -> Generator[None]:
    """The model in evaluation mode, and in its own mode again afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def about_runs(
    model: LanguageModel, corruption: Corruption, judge: Metric, clean: Tensor, corrupted: Tensor, seed: int
) -> dict[str, Any]:
    """The metadata of `table` that belong to the runs: their final logits are clean (V,) and corrupted (S, V)."""
    prob = Metric("prob", judge.answer, None, judge.given)
    noisy = corruption.noise is not None
    return {
        "p_clean": float(prob(clean[None])[0]), "p_corrupted": float(prob(corrupted).mean()),
        "metric": judge.kind, "metric_clean": float(judge(clean[None])[0]),
        "metric_corrupted": float(judge(corrupted).mean()), "answer": judge.answer, "answer_given": judge.given,
        "predicted": int(clean.argmax()), "foil": judge.foil, "corruption": "noise" if noisy else "replacement",
        "noise": corruption.std, "seed": seed if noisy else None,
        "subject": f"{corruption.subject[0]}:{corruption.subject[1]}",
        "length": len(corruption.clean), "model": label(model),
    }  # fmt: skip
