"""The search on one set of questions: many cheap candidates first, more questions and steps for those that are left.

    places      every site and layer: a step along its signed detector, and its quiet channels turned up; the best stay
    directions  every pointer x the places left, one set size and factor
    ladder      the best directions: other factors, then other set sizes
    grown       the best of those, in force: what detectors now name joins it or leaves it
    finalists   the best of those on all questions, factor and size between the steps of the ladder
    free        a gain for every channel of the best place, fitted from "leave as it is"
    shaped      one factor again, on channels in the order of those gains
    refined     a gain for every channel, fitted from the better of the two sets with one factor

The last four stages give one candidate each, of families that are ever richer: one factor on a set that a detector
named (`common`) or that a fit named (`shaped`), gains around it, gains of their own. The richer, the more it owes to
the questions that it was fitted to; which of them is worth its freedom is for cross-fitting to say. Up to the finalists
a candidate's score is the mean log-probability of the answers on a part of the questions, spread evenly over lengths.
From rung to rung, candidates that are worse than leaving the model as it is are dropped, but for the best; what two
candidates have in common is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from .answered import Asked, Batch, batches, score_all, tokens_of
from .channel_sets import GROWING, POINTERS, ChannelSet, Pointer, best_first, hopeful, with_signs
from .detectors import Observed, find_detector, observe
from .gains import STEP, Gains, Place, fit

if TYPE_CHECKING:
    from ..models import LanguageModel

FAMILIES = ("common", "shaped", "refined", "free")
ROWS = 24  # of a batch: a step of a fit sees one
_FIRST_STEP, _FIRST_SIZE = 0.7, 2.0  # log gains of the first two rungs: what was turned down by 30 must show at once
_SIZES = (0.7, 1.3, 2.0, 2.7, 3.4)  # log factors of the ladder: 2, 3.7, 7.4, 15 and 30
_BETWEEN = (0.4, 0.2, 0.1)  # log factor between those, ever finer
_REFINING_STEP = 0.15  # of a fit that begins at the best common factor
_FIRST_SHARE, _SHARES = 1 / 8, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of a site's channels: set sizes
_ROUNDS = 4  # of growing, at most
_BACKWARD = 3  # a forward and a backward pass cost as much as so many forward passes


@dataclass(frozen=True)
class Effort:
    """How much a search does. screening: questions of the early rungs. places, directions, finalists: how many survive.
    refined, free: steps of the fits. folds: of the cross-fitting."""

    screening: int = 24
    places: int = 6
    directions: int = 6
    finalists: int = 1
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
    # a walk begins inside of its steps and sees those of one side, and the first one of the other
    walk, polish = len(_SIZES) + len(_SHARES) - 5, 2 * (len(_BETWEEN) - 1)
    final = effort.finalists * (3 + 2) + polish
    growing = _ROUNDS * (2 * len(GROWING) + 1)
    parts = batches(items, ROWS)
    read = [_length(items, batch) for batch in parts]
    steps = {name: sum(read[i % len(read)] for i in range(getattr(effort, name))) for name in ("refined", "free")}
    return [
        Rung("observed", 1, n, _BACKWARD * all_tokens),
        Rung("as it is", 1, n, all_tokens + each),
        Rung("places", 2 * n_places, len(few), 2 * n_places * each),
        Rung("directions", kept * len(POINTERS), len(few), kept * len(POINTERS) * each),
        Rung("ladder", effort.directions * walk, len(few), effort.directions * walk * each),
        Rung("grown", growing, len(few), (growing + _BACKWARD * _ROUNDS) * each),
        Rung("finalists", final, n, final * all_tokens),
        Rung("free", 1, n, _BACKWARD * steps["free"] + all_tokens),
        Rung("shaped", walk + 5 + polish, n, (1 + walk) * each + (5 + polish) * all_tokens),
        Rung("refined", 1, n, _BACKWARD * steps["refined"] + all_tokens),
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
        climbed = self._ladder(self._directions(stayed, seen))
        found = self._finalists("finalists", [self._grown(climbed[0]), *climbed[1:]])
        best, made = found, {"common": found.gains}
        if set(families) - {"common"}:
            place = found.place
            made["free"] = self._fitted("free", Gains(place, torch.zeros(place.channels, dtype=torch.float64)))
        if set(families) & {"shaped", "refined"}:
            shaped = self._finalists("shaped", [self._shaped(made["free"])])
            made["shaped"], best = shaped.gains, best_first([found, shaped])[0]
        if "refined" in families:
            made["refined"] = self._fitted("refined", best.gains)
        return {family: made[family] for family in families}

    def _places(self, where: Sequence[Place], seen: Mapping[str, Observed]) -> list[Place]:
        tried: list[tuple[float, int, Place]] = []
        for i, place in enumerate(where):
            sure = (find_detector("attribution_t")(seen[place.name]) / 2).clamp(-1, 1)
            along = self._try("places", Gains(place, _FIRST_STEP * sure), "attribution_t")
            louder = self._tried("places", _first_set(place, POINTERS[0], seen[place.name])).score
            tried.append((max(along, louder), i, place))
        return [place for _, _, place in sorted(tried, key=lambda t: (-t[0], t[1]))[: self.effort.places]]

    def _directions(self, where: Sequence[Place], seen: Mapping[str, Observed]) -> list[ChannelSet]:
        tried: list[ChannelSet] = []
        for place in where:
            for pointer in POINTERS:
                tried.append(self._tried("directions", _first_set(place, pointer, seen[place.name])))
        return hopeful(tried)[: self.effort.directions]

    def _ladder(self, sets: Sequence[ChannelSet]) -> list[ChannelSet]:
        climbed: list[ChannelSet] = []
        for first in sets:
            climbed.append(self._walk("ladder", self._walk("ladder", first, "size", _SIZES), "share", _SHARES))
        return hopeful(climbed)[: self.effort.finalists]

    def _grown(self, here: ChannelSet) -> ChannelSet:
        """The set with channels that join or leave it while that is better: one, or half as many as it has."""
        for _ in range(_ROUNDS if math.isfinite(here.score) else 0):
            with self.model.edit(*here.gains.edits()):
                seen = observe(self.model, self._few, [here.place.name])[here.place.name]
            self.log.tokens += _BACKWARD * self._few_tokens
            members, tried = here.order[: here.count], [here]
            for pointer in GROWING:
                signs = pointer.signs(find_detector(pointer.detector)(seen))
                rest = [c for c in find_detector(pointer.detector).order(seen) if c not in members]
                for more in sorted({1, max(1, len(members) // 2)}):
                    if rest:
                        joined = here.of(
                            members + tuple(rest[:more]), rest[more:], with_signs(here, signs, rest[:more])
                        )
                        tried.append(self._tried("grown", joined))
            unwanted = (find_detector("attribution_t")(seen) * here.signs)[list(members)]
            if len(members) > 1 and float(unwanted.min()) < 0:
                left = members[int(unwanted.argmin())]
                kept = tuple(c for c in members if c != left)
                tried.append(self._tried("grown", here.of(kept, (left, *here.order[here.count :]), here.signs)))
            best = best_first(tried)[0]
            if best is here:
                break
            here = best
        return here

    def _shaped(self, fitted: Gains) -> ChannelSet:
        """The set of one factor that begins with the channels of the largest fitted gains, up or down."""
        order = fitted.log_gains.abs().argsort(descending=True, stable=True)
        pointer = Pointer("gradient", 0)
        first = ChannelSet(
            fitted.place, pointer, tuple(int(c) for c in order), fitted.log_gains.sign(), _FIRST_SHARE, _FIRST_SIZE
        )
        begun = self._tried("shaped", first)
        return self._walk("shaped", self._walk("shaped", begun, "share", _SHARES), "size", _SIZES)

    def _walk(self, rung: str, here: ChannelSet, what: Literal["size", "share"], steps: Sequence[float]) -> ChannelSet:
        """From a set up the steps of its size or share while that is better, and where the first is not, down."""
        start = steps.index(getattr(here, what))
        for way in (steps[start + 1 :], steps[:start][::-1]):
            begun = here
            for value in way:
                there = self._tried(rung, here.changed(**{what: value}))
                if there.score <= here.score:
                    break
                here = there
            if here is not begun:
                break
        return here

    def _finalists(self, rung: str, sets: Sequence[ChannelSet]) -> ChannelSet:
        tried: list[ChannelSet] = []
        for last in sets:
            here = self._tried(rung, last, whole=True)
            for share in (last.share / math.sqrt(2), last.share * math.sqrt(2)):
                here = best_first([here, self._tried(rung, here.changed(share=share), whole=True)])[0]
            tried.append(self._around(rung, here, _BETWEEN[0]))
        best = best_first(tried)[0]
        for step in _BETWEEN[1:]:
            best = self._around(rung, best, step)
        return best

    def _around(self, rung: str, here: ChannelSet, step: float) -> ChannelSet:
        """The best of a set and the same with a factor a step smaller or larger."""
        sizes = (here.size - step, here.size + step)
        return best_first([here, *(self._tried(rung, here.changed(size=size), whole=True) for size in sizes)])[0]

    def _fitted(self, family: str, start: Gains) -> Gains:
        steps = getattr(self.effort, family)
        for i in range(steps):
            self.log.tokens += _BACKWARD * _length(self.items, self._all[i % len(self._all)])
        found = fit(self.model, self._all, start, steps, step=_REFINING_STEP if family == "refined" else STEP)
        self._try(family, found, "gradient", whole=True)
        return found

    def _tried(self, rung: str, what: ChannelSet, whole: bool = False) -> ChannelSet:
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


def _first_set(place: Place, pointer: Pointer, seen: Observed) -> ChannelSet:
    """What a pointer proposes, in the first number of channels and the first factor."""
    found = find_detector(pointer.detector)
    return ChannelSet(place, pointer, tuple(found.order(seen)), pointer.signs(found(seen)), _FIRST_SHARE, _FIRST_SIZE)


def _middle(gains: Gains) -> float | None:
    """The middle factor, of those of one direction: exp of the median |log gain|; None where nothing is changed."""
    sizes = gains.log_gains[gains.log_gains != 0].abs()
    return float(sizes.median().exp()) if len(sizes) else None
