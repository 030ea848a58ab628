"""Choosing how to learn from a few examples: every way is tried on parts of them and judged on the rest.

    chosen = choose(WAYS, partial(learn_state, model, steps=100), examples)
    learned = learn_state(model, examples, examples, steps=100, stop=chosen.stop, **chosen.setting)

With a few dozen examples none can be spared: ten that are set aside to choose by cannot tell two ways apart that differ
in one answer of ten, and what is learned lacks them. In folds every example judges once, and in the end all are learned
from, for as many steps as was best where they judged: what has learned all examples by heart cannot say when to stop.
Everything that is compared gets the same: the same folds, as many ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, NamedTuple, Protocol, TypeVar

from ...core.errors import UsageError
from .descent import Descent
from .examples import Example


class Learned(Protocol):
    """What any way of learning gives: how it went."""

    @property
    def descent(self) -> Descent: ...


L_co = TypeVar("L_co", bound=Learned, covariant=True)


class Learning(Protocol[L_co]):
    """A way to learn: examples, those to stop by, and options."""

    def __call__(self, examples: Sequence[Example], development: Sequence[Example], /, **setting: Any) -> L_co: ...


class Chosen(NamedTuple):
    """setting, stop: those of the lowest loss; stop is the step to keep, at least 1. curves: of every setting (step,
    mean loss over all examples, each judged by what was learned without it, nats) at every look."""

    setting: Mapping[str, Any]
    stop: int
    curves: tuple[tuple[tuple[int, float], ...], ...]

    @property
    def losses(self) -> tuple[float, ...]:
        """The lowest of every setting."""
        return tuple(min(loss for _, loss in curve) for curve in self.curves)


def choose(
    settings: Sequence[Mapping[str, Any]],
    learn: Learning[Learned],
    examples: Sequence[Example],
    *,
    folds: int = 3,
    seed: int = 0,
) -> Chosen:
    """The setting of `learn` and the step whose loss on examples that it has not seen is lowest, over `folds` parts of
    them; the first of equal ones. seed: of the parts.

    Raises UsageError for no setting, and for fewer examples than parts.
    """
    if not settings:
        raise UsageError("there is no setting to choose from")
    if not 2 <= folds <= len(examples):
        raise UsageError(f"{len(examples)} examples cannot be cut into {folds} parts; at least 2, one example in each")
    order = list(range(len(examples)))
    Random(f"folds of examples {seed}").shuffle(order)
    parts = [order[start::folds] for start in range(folds)]
    curves: list[tuple[tuple[int, float], ...]] = []
    for setting in settings:
        found: list[tuple[int, dict[int, float]]] = []
        for part in parts:
            held_out = set(part)
            rest = [example for i, example in enumerate(examples) if i not in held_out]
            looks = learn(rest, [examples[i] for i in part], **setting).descent.development
            found.append((len(part), {step: loss for step, loss in looks if step}))
        # one that waited long enough for a lower loss has fewer looks
        steps = [step for step in found[0][1] if all(step in looks for _, looks in found)]
        mean = [sum(n * looks[step] for n, looks in found) / len(examples) for step in steps]
        curves.append(tuple(zip(steps, mean, strict=True)))
    best = min(range(len(settings)), key=lambda i: min((loss for _, loss in curves[i]), default=float("inf")))
    stop, _ = min(curves[best], key=lambda look: look[1])
    return Chosen(settings[best], stop, tuple(curves))
