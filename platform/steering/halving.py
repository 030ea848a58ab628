"""The search on one set of questions: many cheap candidates first, more questions and steps for those that are left.

    places      every site and layer, one step along its signed detector; the best places stay
    directions  every pointer x the places left, one set size and factor
    ladder      the best directions: other factors, then other set sizes
    finalists   the best of those on all questions, factor and size between the steps of the ladder
    refined     a gain for every channel of the best place, beginning at the best common factor
    free        the same at the best place of the first rung, beginning at "leave as it is"

The last three give one candidate each, of families that are ever richer: one factor on a set, gains around it, gains
of their own. The richer, the more it owes to the questions that it was fitted to; which of them is worth its freedom is
for cross-fitting to say. Up to the finalists a candidate's score is the mean log-probability of the answers on a part
of the questions that is spread evenly over their lengths. From rung to rung, candidates that are worse than leaving the
model as it is are dropped, but for the best; what two candidates have in common is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from .answered import Asked, Batch, batches, score_all, tokens_of
from .detectors import Observed, find_detector, observe
from .gains import STEP, Gains, Place, common, fit

if TYPE_CHECKING:
    from ..models import LanguageModel

FAMILIES = ("common", "refined", "free")
ROWS = 24  # of a batch: a step of a fit sees one
_FIRST_STEP, _FIRST_SIZE = 0.7, 1.5  # log gains of the first two rungs
_SIZES = (0.7, 1.5, 2.3, 3.2)  # log factors of the ladder: 2, 4.5, 10 and 25
_BETWEEN = (0.4, 0.2, 0.1)  # log factor between those, ever finer
_REFINING_STEP = 0.15  # of a fit that begins at the best common factor
_FIRST_SHARE, _SHARES = 1 / 8, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of a site's channels: set sizes
_BACKWARD = 3  # a forward and a backward pass cost as much as so many forward passes


class Pointer(NamedTuple):
    """What a detector proposes. sense: 1 for larger channels, -1 for smaller ones, 0 for its own sign."""

    detector: str
    sense: int


POINTERS = (
    Pointer("quiet_but_heard", 1), Pointer("gradient_norm", 1), Pointer("gradient_norm", -1),
    Pointer("attribution_t", 0), Pointer("cosine", 0), Pointer("mean_ablation", 1), Pointer("variance", -1),
)  # fmt: skip


@dataclass(frozen=True)
class Effort:
    """How much a search does. screening: questions of the early rungs. places, directions, finalists: how many survive.
    refined, free: steps of the fits. folds: of the cross-fitting."""

    screening: int = 24
    places: int = 4
    directions: int = 6
    finalists: int = 2
    refined: int = 10
    free: int = 15
    folds: int = 3


class Rung(NamedTuple):
    """One stage as it is planned. candidates: at most; questions: each is scored on; tokens: forward tokens in all."""

    name: str
    candidates: int
    questions: int
    tokens: int


@dataclass
class Log:
    """What a search did. rows: a candidate each; tokens: forward tokens so far. about: columns of every row."""

    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tokens: int = 0


def screened(items: Sequence[Asked], count: int) -> list[Asked]:
    """At most `count` of the items, evenly over their lengths."""
    order = sorted(items, key=lambda item: (-item.length, item.id))
    count = min(count, len(order))
    return [order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count)]


def rungs(items: Sequence[Asked], n_places: int, effort: Effort) -> list[Rung]:
    """What a search on `items` costs at most."""
    few, all_tokens, n = screened(items, effort.screening), tokens_of(items), len(items)
    each, kept = tokens_of(few), min(effort.places, n_places)
    ladder = effort.directions * (len(_SIZES) + len(_SHARES) - 3)  # neither walk sees all of its steps
    final = effort.finalists * (3 + 2) + 2 * (len(_BETWEEN) - 1)
    parts = batches(items, ROWS)
    read = [_length(items, batch) for batch in parts]
    steps = {name: sum(read[i % len(read)] for i in range(getattr(effort, name))) for name in ("refined", "free")}
    return [
        Rung("observed", 1, n, _BACKWARD * all_tokens),
        Rung("as it is", 1, n, all_tokens + each),
        Rung("places", n_places, len(few), n_places * each),
        Rung("directions", kept * len(POINTERS), len(few), kept * len(POINTERS) * each),
        Rung("ladder", ladder, len(few), ladder * each),
        Rung("finalists", final, n, final * all_tokens),
        *(Rung(name, 1, n, _BACKWARD * steps[name] + all_tokens) for name in ("refined", "free")),
    ]


class Ladder:
    """One search; see the module. Edits in force count as part of the model."""

    def __init__(self, model: LanguageModel, items: Sequence[Asked], effort: Effort, log: Log) -> None:
        self.model, self.items, self.effort, self.log = model, items, effort, log
        few = screened(items, effort.screening)
        self._few, self._few_tokens = batches(few, ROWS, model.device), tokens_of(few)
        self._all, self._all_tokens = batches(items, ROWS, model.device), tokens_of(items)
        self._known: dict[tuple[str, bytes, bool], tuple[float, float]] = {}
        self._base = {True: self._score(self._all, self._all_tokens), False: self._score(self._few, self._few_tokens)}

    def climb(self, where: Sequence[Place], families: Sequence[str] = FAMILIES) -> dict[str, Gains]:
        """The best candidate of each family."""
        seen = observe(self.model, self._all, [place.name for place in where])
        self.log.tokens += _BACKWARD * self._all_tokens
        stayed = self._places(where, seen)
        best = self._finalists(self._ladder(self._directions(stayed, seen)))
        found = {"common": best.gains}
        starts = {"refined": best.gains, "free": Gains(stayed[0], torch.zeros(stayed[0].channels, dtype=torch.float64))}
        for family, start in starts.items():
            if family in families:
                found[family] = self._fitted(family, start)
        return {family: found[family] for family in families}

    def _places(self, where: Sequence[Place], seen: Mapping[str, Observed]) -> list[Place]:
        tried: list[tuple[float, int, Place]] = []
        for i, place in enumerate(where):
            sure = (find_detector("attribution_t")(seen[place.name]) / 2).clamp(-1, 1)
            tried.append((self._try("places", Gains(place, _FIRST_STEP * sure), "attribution_t"), i, place))
        return [place for _, _, place in sorted(tried, key=lambda t: (-t[0], t[1]))[: self.effort.places]]

    def _directions(self, where: Sequence[Place], seen: Mapping[str, Observed]) -> list[_Set]:
        tried: list[_Set] = []
        for place in where:
            for pointer in POINTERS:
                found = find_detector(pointer.detector)
                scores = found(seen[place.name])
                signs = scores.sign() if pointer.sense == 0 else torch.full_like(scores, float(pointer.sense))
                first = _Set(place, pointer, tuple(found.order(seen[place.name])), signs, _FIRST_SHARE, _FIRST_SIZE)
                tried.append(first.scored(self._try("directions", first.gains, pointer.detector)))
        return _hopeful(tried)[: self.effort.directions]

    def _ladder(self, sets: Sequence[_Set]) -> list[_Set]:
        climbed: list[_Set] = []
        for first in sets:
            best = self._walk(first, "size", _SIZES)
            climbed.append(self._walk(best, "share", _SHARES))
        return _hopeful(climbed)[: self.effort.finalists]

    def _walk(self, here: _Set, what: Literal["size", "share"], steps: Sequence[float]) -> _Set:
        """From a set up the steps of its size or share while that is better, and where the first is not, down."""
        start = steps.index(getattr(here, what))
        for way in (steps[start + 1 :], steps[:start][::-1]):
            begun = here
            for value in way:
                there = self._tried("ladder", here.changed(**{what: value}))
                if there.score <= here.score:
                    break
                here = there
            if here is not begun:
                break
        return here

    def _finalists(self, sets: Sequence[_Set]) -> _Set:
        tried: list[_Set] = []
        for last in sets:
            here = self._tried("finalists", last, whole=True)
            for share in (last.share / math.sqrt(2), last.share * math.sqrt(2)):
                here = _best([here, self._tried("finalists", here.changed(share=share), whole=True)])[0]
            tried.append(self._around(here, _BETWEEN[0]))
        best = _best(tried)[0]
        for step in _BETWEEN[1:]:
            best = self._around(best, step)
        return best

    def _around(self, here: _Set, step: float) -> _Set:
        """The best of a set and the same with a factor a step smaller or larger."""
        sizes = (here.size - step, here.size + step)
        return _best([here, *(self._tried("finalists", here.changed(size=size), whole=True) for size in sizes)])[0]

    def _fitted(self, family: str, start: Gains) -> Gains:
        steps = getattr(self.effort, family)
        for i in range(steps):
            self.log.tokens += _BACKWARD * _length(self.items, self._all[i % len(self._all)])
        found = fit(self.model, self._all, start, steps, step=_REFINING_STEP if family == "refined" else STEP)
        self._try(family, found, "gradient", whole=True)
        return found

    def _tried(self, rung: str, what: _Set, whole: bool = False) -> _Set:
        return what.scored(self._try(rung, what.gains, what.pointer.detector, whole))

    def _try(self, rung: str, gains: Gains, detector: str, whole: bool = False) -> float:
        """The mean gain in log-probability, minus infinity where it is not finite; noted as a row."""
        asked, tokens = (self._all, self._all_tokens) if whole else (self._few, self._few_tokens)
        key = (gains.place.name, gains.log_gains.numpy().tobytes(), whole)
        tokens = 0 if key in self._known else tokens
        if key not in self._known:
            self._known[key] = self._score(asked, tokens, gains)
        logprob, exact = self._known[key]
        base = self._base[whole]
        better = logprob - base[0]
        self.log.rows.append(dict(self.log.about) | {
            "rung": rung, "site": gains.place.site, "layer": gains.place.layer, "detector": detector,
            "n_channels": len(gains.channels), "factor": _middle(gains), "n": sum(len(b.rows) for b in asked),
            "logprob_gain": better if math.isfinite(better) else None,
            "exact_gain": exact - base[1] if math.isfinite(better) else None, "tokens": tokens,
        })  # fmt: skip
        return better

    def _score(self, asked: Sequence[Batch], tokens: int, gains: Gains | None = None) -> tuple[float, float]:
        self.log.tokens += tokens
        said = score_all(self.model, asked, [] if gains is None else gains.edits())
        logprob = float(said.logprob.mean()) if bool(said.finite.all()) else -math.inf
        return logprob, float(said.exact.double().mean())


def _length(items: Sequence[Asked], batch: Batch) -> int:
    """Tokens that one forward pass over the batch reads, padding not counted."""
    return sum(items[int(i)].length for i in batch.rows)


@dataclass(frozen=True, eq=False)
class _Set:
    """The first channels of an order by one factor. share: of the site's channels; size: logarithm of the factor."""

    place: Place
    pointer: Pointer
    order: tuple[int, ...]
    signs: Tensor
    share: float
    size: float
    score: float = -math.inf

    @property
    def count(self) -> int:
        return max(1, min(round(self.share * self.place.channels), self.place.channels))

    @property
    def gains(self) -> Gains:
        return common(self.place, self.order, self.signs, self.count, self.size)

    def changed(self, *, share: float | None = None, size: float | None = None) -> _Set:
        share, size = self.share if share is None else share, self.size if size is None else size
        return _Set(self.place, self.pointer, self.order, self.signs, share, size)

    def scored(self, score: float) -> _Set:
        return _Set(self.place, self.pointer, self.order, self.signs, self.share, self.size, score)


def _best(sets: Sequence[_Set]) -> list[_Set]:
    """Best first; of equals those that came first."""
    return sorted(sets, key=lambda s: -s.score)


def _hopeful(sets: Sequence[_Set]) -> list[_Set]:
    """Best first, without those that are worse than no change, but for the best."""
    order = _best(sets)
    return [order[0], *(s for s in order[1:] if s.score > 0)]


def _middle(gains: Gains) -> float | None:
    """The middle factor, of those of one direction: exp of the median |log gain|; None where nothing is changed."""
    sizes = gains.log_gains[gains.log_gains != 0].abs()
    return float(sizes.median().exp()) if len(sizes) else None
