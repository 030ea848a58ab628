"""The search on one set of questions: many cheap candidates first, more questions and steps for those that are left.

    foreseen    every site and layer: what the next rung would show, to first order; the best are tried
    places      those: a step along its signed detector, its quiet channels up, its loud ones down; the best stay
    directions  every pointer x the places left, one set size and factor
    ladder      the best directions: other factors, then other set sizes
    grown       the best of those, in force: what detectors now name joins it or leaves it
    finalists   that set on all questions: without members that these want otherwise; size and factor between the steps
    trial       the places left: a gain for every channel, a few steps of a fit from "leave as it is"
    fitted      the best of trials and sets: more steps, the channels that moved, and their gains without the pull

That gives a candidate each of two families: one factor on a set of channels (`common`), and a gain of its own for each
channel of a sparse set (`fitted`). The richer one owes more to the questions that it was fitted to; whether it is worth
its freedom is for cross-fitting to say. A candidate's score is the mean log-probability of the answers on a part of the
questions, spread evenly over lengths: few at first, more for those that are left. At the end, once most answers are
likely, it is a bounded one (`answered.bounded`): the mean of log p is that of a few hopeless questions, and best where
the others are answered less surely. Fits see all questions, a batch a step, so that more questions cost them nothing.
From rung to rung, candidates that are worse than leaving the model as it is are dropped, but for the best; what two
candidates have in common is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .answered import Asked, batches, bounded, score_all, tokens_of
from .below import Below
from .channel_sets import GROWING, LOUDER, POINTERS, QUIETER, ChannelSet, Pointer, best_first, hopeful, with_signs
from .detectors import Observed, find_detector, observe
from .effort import BACKWARD, BETWEEN, ROUNDS, ROWS, SCORED, SHARES, SIZES, Effort, length_of, screened
from .gains import STEP, Gains, Place, fit

if TYPE_CHECKING:
    from ..models import LanguageModel

FAMILIES = ("common", "fitted")
_FIRST_STEP, _FIRST_SIZE = 0.7, 2.0  # log gains of the first two rungs: what was turned down by 30 must show at once
_FIRST_SHARE = 1 / 8  # of a site's channels: the first size of a set
_SPARING, _FREE = 0.4, 0.02  # pull to the start while channels are chosen, and once they are
_TRIAL_STEP = 0.6  # of a log gain: few steps have to show what a place is worth
_HOPEFUL = -1.5  # mean bounded score, half of the way up from its floor
_UNWANTED = 2.5  # mean over standard error of what a member takes away, from which it goes
_MOVED = 0.25  # log gain from which a channel counts as chosen


@dataclass
class Log:
    """What a search did. rows: a candidate each; tokens: forward tokens so far. about: columns of every row."""

    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tokens: int = 0


class Ladder:
    """One search; see the module. Edits in force count as part of the model."""

    def __init__(self, model: LanguageModel, items: Sequence[Asked], effort: Effort, log: Log) -> None:
        self.model, self.items, self.effort, self.log = model, items, effort, log
        self._all = batches(items, ROWS, model.device)
        few, some = screened(items, effort.screening), screened(items, effort.judging)
        self._asked = {
            "few": (batches(few, SCORED, model.device), tokens_of(few)),
            "some": (batches(some, SCORED, model.device), tokens_of(some)),
            "all": (batches(items, SCORED, model.device), tokens_of(items)),
        }
        self._below = Below(model)
        self._known: dict[tuple[str, bytes, str], tuple[float, float, float]] = {}
        self._base = {name: self._score(name) for name in self._asked}

    def climb(self, where: Sequence[Place], families: Sequence[str] = FAMILIES) -> dict[str, Gains]:
        """The best candidate of each family."""
        seen = observe(self.model, self._all, [place.name for place in where])
        self.log.tokens += BACKWARD * tokens_of(self.items)
        stayed = self._places(self._foreseen(where, seen), seen)
        made: dict[str, Gains] = {}
        climbed = self._grown(self._ladder(self._directions(stayed, seen)))
        if "common" in families:
            made["common"] = self._finalist(climbed).gains
        if "fitted" in families:
            made["fitted"] = self._fitted(stayed, climbed)
        return made

    def from_parts(self, fits: Sequence[Gains]) -> Gains:
        """From fits at one place, each on a part of the questions, to gains on all: of the channels on whose direction
        they agree, as what was fitted to noise agrees half as often as what is there; or of those that a fit from their
        mean moves, where that is better: what is spread over many channels is not found twice in the same ones."""
        each = torch.stack([gains.log_gains for gains in fits])
        mean = each.mean(0)
        agreed = torch.where((each > 0).all(0) | (each < 0).all(0), mean, 0.0)
        made = [self._settled(Gains(fits[0].place, start)) for start in (agreed, self._chosen(fits[0].place, mean))]
        floored = self._mended("fitted", made[0], "gradient")
        return max(made, key=lambda gains: self._try("fitted", gains, "gradient", "all", floored))

    def _chosen(self, place: Place, start: Tensor) -> Tensor:
        return _moved(self._fit(Gains(place, start), "choosing", _SPARING)).log_gains

    def _settled(self, chosen: Gains) -> Gains:
        """The channels of `chosen`, with gains fitted without a pull."""
        floored = self._mended("fitted", chosen, "gradient")
        found = self._fit(chosen, "settling", _FREE, within=chosen.log_gains != 0, floored=floored)
        self._try("fitted", found, "gradient", "some")
        return found

    def _foreseen(self, where: Sequence[Place], seen: Mapping[str, Observed]) -> list[Place]:
        """The places that are worth trying, in their order: those where a candidate of the first rung promises most to
        first order, which what was observed tells without another pass. A deep model has hundreds."""
        told: list[list[float]] = []
        for place in where:
            here = seen[place.name]
            slope = here.attribution.mean(0)
            told.append([float(((gains.log_gains.exp() - 1) * slope).sum()) for gains in _first(place, here)])
        ranks = [sorted(range(len(where)), key=lambda i, k=k: (-told[i][k], i)) for k in range(len(told[0]))]
        chosen = dict.fromkeys(i for each in zip(*ranks, strict=True) for i in each)
        return [where[i] for i in sorted(list(chosen)[: self.effort.foreseen])]

    def _places(self, where: Sequence[Place], seen: Mapping[str, Observed]) -> list[Place]:
        tried: list[tuple[float, int, Place]] = []
        for i, place in enumerate(where):
            names = ("attribution_t", LOUDER.detector, QUIETER.detector)
            candidates = zip(_first(place, seen[place.name]), names, strict=True)
            tried.append((max(self._try("places", gains, name) for gains, name in candidates), i, place))
        return [place for _, _, place in sorted(tried, key=lambda t: (-t[0], t[1]))[: self.effort.places]]

    def _directions(self, where: Sequence[Place], seen: Mapping[str, Observed]) -> list[ChannelSet]:
        tried: list[ChannelSet] = []
        for place in where:
            for pointer in POINTERS:
                tried.append(self._tried("directions", _first_set(place, pointer, seen[place.name])))
        return hopeful(tried)[: self.effort.directions]

    def _ladder(self, sets: Sequence[ChannelSet]) -> ChannelSet:
        climbed: list[ChannelSet] = []
        for first in sets:
            climbed.append(self._shares("ladder", self._sizes("ladder", first)))
        return best_first(climbed)[0]

    def _grown(self, here: ChannelSet) -> ChannelSet:
        """The set with channels that join or leave it while that is better: one, or half as many as it has."""
        for _ in range(ROUNDS if math.isfinite(here.score) else 0):
            with self.model.edit(*here.gains.edits()):
                seen = observe(self.model, self._asked["few"][0], [here.place.name])[here.place.name]
            self.log.tokens += BACKWARD * self._asked["few"][1]
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

    def _fitted(self, where: Sequence[Place], climbed: ChannelSet) -> Gains:
        """Gains of one place: channels that a fit with a pull to no change moves, without it. It goes on from the best
        trial, or from the best set of one factor where that is better than all trials: what was turned far takes a fit
        more steps than a trial has."""
        tried = [(self._try("trial", climbed.gains, climbed.pointer.detector, "some"), 1, climbed.gains)]
        for i, place in enumerate(where):
            nothing = Gains(place, torch.zeros(place.channels, dtype=torch.float64))
            begun = self._fit(nothing, "trial", _SPARING, step=_TRIAL_STEP)
            tried.append((self._try("trial", begun, "gradient", "some"), -i, begun))
        best = max(tried, key=lambda t: t[:2])[2]
        return self._settled(Gains(best.place, self._chosen(best.place, best.log_gains)))

    def _fit(
        self,
        start: Gains,
        rung: str,
        shrink: float,
        *,
        step: float = STEP,
        within: Tensor | None = None,
        floored: bool = False,
    ) -> Gains:
        steps = getattr(self.effort, rung)
        for i in range(steps):
            self.log.tokens += BACKWARD * length_of(self.items, self._all[i % len(self._all)])
        return fit(
            self.model, self._all, start, steps, step=step, shrink=shrink, within=within, floored=floored,
            enter=partial(self._below, layer=start.place.layer),
        )  # fmt: skip

    def _sizes(self, rung: str, here: ChannelSet) -> ChannelSet:
        """The best factor for a set. All are tried: what was turned far may get worse half-way to the best."""
        others = [self._tried(rung, here.changed(size=size)) for size in SIZES if size != here.size]
        return best_first([here, *others])[0]

    def _shares(self, rung: str, here: ChannelSet) -> ChannelSet:
        """From a set to more channels of its order while that is better, and where the first step is not, to fewer."""
        start = SHARES.index(here.share)
        for way in (SHARES[start + 1 :], SHARES[:start][::-1]):
            begun = here
            for share in way:
                there = self._tried(rung, here.changed(share=share))
                if there.score <= here.score:
                    break
                here = there
            if here is not begun:
                break
        return here

    def _finalist(self, last: ChannelSet) -> ChannelSet:
        floored = self._mended("finalists", last.gains, last.pointer.detector)
        best = self._tried("finalists", last, "some", floored)
        for share in (last.share / math.sqrt(2), last.share * math.sqrt(2)):
            best = best_first([best, self._tried("finalists", best.changed(share=share), "some", floored)])[0]
        best = self._tuned(best, BETWEEN[:1], "some", floored)
        sets = dict.fromkeys([best, self._without_unwanted(best)])
        best = best_first([self._tried("finalists", each, "all", floored) for each in sets])[0]
        return self._tuned(best, BETWEEN, "all", floored)

    def _without_unwanted(self, here: ChannelSet) -> ChannelSet:
        """The set without members that all questions want otherwise, with the set in force, beyond chance and other
        than its middle member: where the factor is too large, all are wanted otherwise."""
        if not math.isfinite(here.score):
            return here
        with self.model.edit(*here.gains.edits()):
            seen = observe(self.model, self._all, [here.place.name])[here.place.name]
        self.log.tokens += BACKWARD * tokens_of(self.items)
        members = list(here.order[: here.count])
        wanted = (find_detector("attribution_t")(seen) * here.signs)[members]
        stays = (wanted > -_UNWANTED) | (wanted > wanted.median() - _UNWANTED)
        kept = tuple(c for i, c in enumerate(members) if bool(stays[i]))
        if not kept or len(kept) == len(members):
            return here
        return here.of(kept, tuple(c for c in here.order if c not in kept), here.signs)

    def _mended(self, rung: str, gains: Gains, detector: str) -> bool:
        """Whether so many answers are likely that a bounded score tells of more than a few of them: where nearly all
        are hopeless, only log p says what brings them nearer."""
        return self._base["some"][2] + self._try(rung, gains, detector, "some", True) > _HOPEFUL

    def _tuned(self, best: ChannelSet, steps: Sequence[float], asked: str, floored: bool) -> ChannelSet:
        """Its factor between the steps of the ladder."""
        for step in steps:
            sizes = (best.size - step, best.size + step)
            around = [self._tried("finalists", best.changed(size=size), asked, floored) for size in sizes]
            best = best_first([best, *around])[0]
        return best

    def _tried(self, rung: str, what: ChannelSet, asked: str = "few", floored: bool = False) -> ChannelSet:
        return what.scored(self._try(rung, what.gains, what.pointer.detector, asked, floored))

    def _try(self, rung: str, gains: Gains, detector: str, asked: str = "few", floored: bool = False) -> float:
        """The mean gain in log-probability, or in the bounded score (floored); minus infinity where it is not finite.
        Noted as a row."""
        key = (gains.place.name, gains.log_gains.numpy().tobytes(), asked)
        before = self.log.tokens
        if key not in self._known:
            self._known[key] = self._score(asked, gains)
        logprob, exact, within = self._known[key]
        base = self._base[asked]
        better = logprob - base[0]
        self.log.rows.append(dict(self.log.about) | {
            "rung": rung, "site": gains.place.site, "layer": gains.place.layer, "detector": detector,
            "n_channels": len(gains.channels), "factor": _middle(gains),
            "n": sum(len(b.rows) for b in self._asked[asked][0]),
            "logprob_gain": better if math.isfinite(better) else None,
            "exact_gain": exact - base[1] if math.isfinite(better) else None, "tokens": self.log.tokens - before,
        })  # fmt: skip
        return better if not floored or not math.isfinite(better) else within - base[2]

    def _score(self, asked: str, gains: Gains | None = None) -> tuple[float, float, float]:
        parts, tokens = self._asked[asked]
        self.log.tokens += tokens
        layer = 0 if gains is None else gains.place.layer
        edits = [] if gains is None else gains.edits()
        said = score_all(self.model, parts, edits, partial(self._below, layer=layer))
        logprob = float(said.logprob.mean()) if bool(said.finite.all()) else -math.inf
        return logprob, float(said.exact.double().mean()), float(bounded(said.logprob).mean())


def _moved(gains: Gains) -> Gains:
    """The gains that are worth naming; the others are put back to none."""
    return Gains(gains.place, torch.where(gains.log_gains.abs() >= _MOVED, gains.log_gains, 0.0))


def _first(place: Place, seen: Observed) -> list[Gains]:
    """What the first rung tries: a step of every channel along its signed detector, as long as that is sure of it; the
    quiet channels that are listened to made louder; the loudest channels made quieter."""
    along = Gains(place, _FIRST_STEP * (find_detector("attribution_t")(seen) / 2).clamp(-1, 1))
    return [along, *(_first_set(place, pointer, seen).gains for pointer in (LOUDER, QUIETER))]


def _first_set(place: Place, pointer: Pointer, seen: Observed) -> ChannelSet:
    """What a pointer proposes, in the first number of channels and the first factor."""
    found = find_detector(pointer.detector)
    return ChannelSet(place, pointer, tuple(found.order(seen)), pointer.signs(found(seen)), _FIRST_SHARE, _FIRST_SIZE)


def _middle(gains: Gains) -> float | None:
    """The middle factor, of those of one direction: exp of the median |log gain|; None where nothing is changed."""
    sizes = gains.log_gains[gains.log_gains != 0].abs()
    return float(sizes.median().exp()) if len(sizes) else None
