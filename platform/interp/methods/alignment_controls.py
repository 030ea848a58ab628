"""Alignment search at one place beside everything that could look like it: the subspaces that are compared.

    das                  learned on one part of the pairs, from several seeds
    das_shuffled         learned from counterfactual answers of other pairs: what learning alone does
    das_random_weights   learned on a model with shuffled weights: what the method finds where nothing was learned
    random               subspaces of equal size drawn evenly from all
    pca                  the directions in which the site varies most
    channels             the channels of the highest first-order effect of the interchange
    full                 the whole site, which bounds what a part of it can do and may hold several variables at once

All are exchanged on the same pairs, which none was chosen or learned on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...runtime.plan import digest_of
from ...runtime.table_job import Progress
from ..engine.fitting import Schedule
from .alignment import (
    align,
    gradients,
    inside,
    outside,
    principal_subspace,
    random_subspace,
    share_inside,
    single_channels,
    span,
)
from .interchange import Exchange, Outcome, Region, outcome

if TYPE_CHECKING:
    from ...models import LanguageModel

DAS, SHUFFLED, UNTRAINED, RANDOM = "das", "das_shuffled", "das_random_weights", "random"
PCA, CHANNELS, FULL = "pca", "channels", "full"
KINDS = (DAS, SHUFFLED, UNTRAINED, RANDOM, PCA, CHANNELS, FULL)


@dataclass(frozen=True, eq=False)
class Sides:
    """A model with the pairs that subspaces are learned and chosen on, and those that they are judged on."""

    model: LanguageModel
    train: Exchange
    test: Exchange


@dataclass(frozen=True)
class Search:
    """seeds: how often alignment is learned. draws: random subspaces. natural: share of the squares that a span holds
    which counts as what the site naturally holds, or as what is read of it. folder, progress: see `fitting.fit`."""

    schedule: Schedule
    seeds: int
    draws: int
    natural: float
    seed: int
    folder: Path | None = None
    progress: Callable[[Progress], None] | None = None


class Dormant(NamedTuple):
    """What of a subspace works, of it exchanged by itself; accuracies are None where a part is empty.

    natural, read: how much of the subspace lies in the span of what the site naturally holds, and of what is read of
    it. accuracy_...: of that part, and of what is orthogonal to it.
    """

    natural: float
    accuracy_natural: float | None
    accuracy_unnatural: float | None
    read: float
    accuracy_read: float | None
    accuracy_unread: float | None


@dataclass(frozen=True, eq=False)
class Found:
    """Subspaces of one kind and size at one place, and what their interchange does, one after the other.

    k: dimensions. learned: share right on the pairs to learn on, for all but random ones.
    losses: of the first and the last steps of learning, for those that are learned; dormant: of `das` alone.
    """

    kind: str
    k: int
    subspaces: tuple[Tensor, ...]
    outcomes: tuple[Outcome, ...]
    learned: tuple[float, ...] = ()
    losses: tuple[tuple[float, float], ...] = ()
    dormant: tuple[Dormant, ...] = ()


def unlearned(sides: Sides, region: Region, ranks: Sequence[int]) -> Iterator[Found]:
    """The whole region, and for each of `ranks` below its size the subspaces that are chosen and not learned.

    Raises InputError where the model's scores are not finite.
    """
    yield _judged(FULL, region.size, sides, region, [None])
    values = torch.cat([sides.train.values(region, of) for of in ("base", "source")])
    slopes = gradients(sides.model, sides.train, region)
    scores = (slopes.double() * sides.train.differences(region).double()).mean(0)
    for k in (k for k in ranks if k < region.size):
        yield _judged(PCA, k, sides, region, [principal_subspace(values, k)])
        yield _judged(CHANNELS, k, sides, region, [single_channels(scores, k)])


def learned(name: str, trained: Sides, region: Region, ranks: Sequence[int], search: Search) -> Iterator[Found]:
    """Aligned subspaces for each of `ranks` below the region's size, beside random ones and those of other answers.

    name: of the place among those of the step, plain letters. Raises InputError where the model's scores are not
    finite, and as `fitting.fit`.
    """
    values = torch.cat([trained.train.values(region, of) for of in ("base", "source")])
    slopes = gradients(trained.model, trained.train, region)
    spans = (span(values, search.natural, centred=True), span(slopes, search.natural, centred=False))
    for k in (k for k in ranks if k < region.size):
        of = _Learner(f"{name}-k{k}", region, k, search)
        drawn = [random_subspace(k, region.size, of.seed(RANDOM, i)) for i in range(search.draws)]
        yield _judged(RANDOM, k, trained, region, drawn)
        found = of.learn(DAS, trained, search.seeds)
        dormant = tuple(_dormant(trained, region, rows, *spans) for rows in found.subspaces)
        yield dataclasses.replace(found, dormant=dormant)
        yield of.learn(SHUFFLED, dataclasses.replace(trained, train=_shuffled(trained.train, of.seed(SHUFFLED, 0))), 1)


def learned_untrained(
    name: str, untrained: Sides, region: Region, ranks: Sequence[int], search: Search
) -> Iterator[Found]:
    """The same on a model that has learned nothing. Arguments and errors as `learned`."""
    for k in (k for k in ranks if k < region.size):
        yield _Learner(f"{name}-k{k}", region, k, search).learn(UNTRAINED, untrained, 1)


@dataclass(frozen=True)
class _Learner:
    name: str
    region: Region
    k: int
    search: Search

    def seed(self, kind: str, number: int) -> int:
        """Independent of what else is drawn or learned."""
        return int(digest_of([self.search.seed, self.name, kind, number])[:15], 16)

    def learn(self, kind: str, sides: Sides, seeds: int) -> Found:
        learned = [
            align(
                f"{self.name}-{kind}-{number}", sides.model, sides.train, self.region, self.k,
                schedule=self.search.schedule, seed=self.seed(kind, number), folder=self.search.folder,
                progress=self.search.progress,
            )
            for number in range(seeds)
        ]  # fmt: skip
        found = _judged(kind, self.k, sides, self.region, [one.subspace for one in learned])
        ends = tuple((_mean(one.losses[:10]), _mean(one.losses[-10:])) for one in learned)
        return dataclasses.replace(found, losses=ends)


def _judged(kind: str, k: int, sides: Sides, region: Region, subspaces: Sequence[Tensor | None]) -> Found:
    outcomes = tuple(outcome(sides.model, sides.test, region, rows) for rows in subspaces)
    learned: tuple[float, ...] = ()
    if kind != RANDOM:  # what is drawn has nothing to say of these pairs
        learned = tuple(float(outcome(sides.model, sides.train, region, rows).target.mean()) for rows in subspaces)
    return Found(kind, k, tuple(rows for rows in subspaces if rows is not None), outcomes, learned)


def _dormant(sides: Sides, region: Region, rows: Tensor, natural: Tensor, read: Tensor) -> Dormant:
    def accuracy(part: Tensor) -> float | None:
        return float(outcome(sides.model, sides.test, region, part).target.mean()) if len(part) else None

    return Dormant(
        *(share_inside(rows, natural), accuracy(inside(rows, natural)), accuracy(outside(rows, natural))),
        *(share_inside(rows, read), accuracy(inside(rows, read)), accuracy(outside(rows, read))),
    )


def _shuffled(exchange: Exchange, seed: int) -> Exchange:
    """The same pairs, each with the counterfactual answer of another one."""
    n = len(exchange)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(exchange.answers.device)
    answers = exchange.answers.clone()
    answers[order, 0] = exchange.answers[order.roll(1), 0]
    return dataclasses.replace(exchange, answers=answers)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
