"""How well a search mends planted models, on questions that it never saw.

    def my_search(model, development_questions):        # -> a Recipe, or a list of edits
        return [Scale("blocks.0.mixer_out", 2.0)]

    for case in score(my_search, plants=["tiny-mamba:mixer_out:1/16:0"], seeds=range(5)):
        print(case.plant, case.restored, case.supported)

For each plant and seed the search is handed the damaged model and development questions, and nothing that says what
was done to it. On test questions of the same seed, about nobody whom a development question is about, these are
answered: the clean model, the damaged one, the damaged one steered, and the controls of the recipe
(`mplat.steering.controls`), all in one forward pass a batch (`forced`).

restored   (steered - damaged) / (clean - damaged), of exact match
supported  nothing is `unbeaten` (the verdict's rule without its rank test, which needs more draws): better than the
           damaged model and than every control, each with a paired difference whose interval excludes zero and
           p < alpha, and above every single draw of every control

A carrier has nothing to mend: "supported" there is a false alarm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor

from ...core.errors import UsageError, suggest
from ...datasets.facts import LEVELS, prompts
from ...datasets.records import Question
from ...models.access.edits import Edit
from ...scoring.statistics import Difference, Estimate, paired_difference
from ...steering.controls import Activity, Comparison, control_recipes
from ...steering.detectors import channels_of
from ...steering.recipe import Recipe
from ..conditions import CONTROL, STEERED, UNSTEERED
from ..verdict import Evidence, unbeaten
from .catalogue import find_plant
from .forced import ForcedBatch, exact_matches, forced_batches
from .plant import Plant, Planted

if TYPE_CHECKING:
    from ...models import LanguageModel

Search = Callable[["LanguageModel", Sequence[Question]], "Recipe | Sequence[Edit]"]
CONTROLS = ("random", "variance_matched", "random_direction", "other_layers")
ALPHA = 0.01


class Scored(NamedTuple):
    """On what a search is scored. per_level, per_level_test: development and test questions of each of the six levels.
    controls: their names. draws: of each control, at most. alpha: of p-values."""

    per_level: int = 40
    per_level_test: int = 40
    controls: Sequence[str] = CONTROLS
    draws: int = 3
    alpha: float = ALPHA


class Terms(TypedDict, total=False):
    """What of `Scored` is said; the rest is as it is there."""

    per_level: int
    per_level_test: int
    controls: Sequence[str]
    draws: int
    alpha: float


@dataclass(frozen=True)
class Case:
    """One search on one plant with the questions of one seed.

    clean, damaged, steered: exact match on n test questions. gain: steered against damaged. controls: exact match of
    each draw, by control; none where a control cannot exist, and then `without` says why. found: channels of the
    plant's site that the recipe changes, and hits: how many of them are planted; None where it changes another site.
    seconds: that the search took.
    """

    plant: str
    kind: str
    seed: int
    n: int
    clean: float
    damaged: float
    steered: float
    gain: Difference
    supported: bool
    controls: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    without: Mapping[str, str] = field(default_factory=dict[str, str])
    sites: tuple[str, ...] = ()
    found: int | None = None
    hits: int | None = None
    planted: int = 0
    seconds: float = 0.0

    @property
    def restored(self) -> float | None:
        """Share of the lost accuracy that is back; None where none was lost."""
        return self._share(self.steered)

    def restored_by(self, control: str) -> float | None:
        """The same of a control, mean over its draws; None where it has none, or nothing was lost."""
        draws = self.controls.get(control, ())
        return self._share(sum(draws) / len(draws)) if draws else None

    def _share(self, exact: float) -> float | None:
        lost = self.clean - self.damaged
        return (exact - self.damaged) / lost if lost > 0 else None


def score(
    search: Search,
    *,
    plants: Iterable[str | Plant],
    seeds: Iterable[int] = (0,),
    **terms: Unpack[Terms],
) -> list[Case]:
    """`search` on every plant with the questions of every seed, in that order.

    terms: as `Scored` says. Raises UsageError for a plant, control or term that is none, and where the search gives
    neither a recipe nor edits; what the search raises goes through.
    """
    chosen = [find_plant(plant) if isinstance(plant, str) else plant for plant in plants]
    every, how = list(seeds), scored_on(terms)
    cases: list[Case] = []
    for plant in chosen:
        planted = plant.grow()
        for seed in every:
            with planted.applied():
                cases.append(_case(planted, search, seed, how))
    return cases


def scored_on(terms: Terms) -> Scored:
    """`terms` with the defaults of what they leave out. Raises UsageError for one that is none."""
    if unknown := sorted(terms.keys() - set(Scored._fields)):
        raise UsageError(f"a search is not scored by {unknown[0]!r}; {suggest(unknown[0], Scored._fields)}")
    return Scored(**terms)


def _case(planted: Planted, search: Search, seed: int, how: Scored) -> Case:
    development = prompts(how.per_level, seed, stream="planted-development")
    test = apart(development, how.per_level_test, seed)
    controls = how.controls
    model, plant = planted.model, planted.plant
    started = time.perf_counter()
    found = search(model, development)
    seconds = time.perf_counter() - started
    edits = _edits(found, model)
    batches = forced_batches(model, test)
    groups = [question.origin for question in test]

    def exact(these: Sequence[Edit]) -> Tensor:
        with model.edit(*these):
            return exact_matches(model, batches)

    clean, damaged = exact_matches(planted.clean, batches), exact([])
    steered = exact(edits) if edits else damaged
    gain = paired_difference(steered, damaged, seed=seed, groups=groups)
    without: dict[str, str] = {}
    answered: dict[str, list[Tensor]] = {}
    if edits and isinstance(found, Recipe):
        comparison = Comparison(found, model, how.draws, seed, _activity_on(model, forced_batches(model, development)))
        for name, drawn in control_recipes(controls, comparison).items():
            answered[name] = [exact(recipe.edits(model)) for recipe in drawn.recipes]
            if drawn.reason:
                without[name] = drawn.reason
    elif edits:
        without = dict.fromkeys(controls, "edits that are no recipe have no controls")
    evidence = _evidence(steered, damaged, gain, answered, seed, groups)
    own, hits = _channels(edits, planted)
    return Case(
        plant.name, plant.kind, seed, len(test), float(clean.mean()), float(damaged.mean()), float(steered.mean()),
        gain,
        supported=bool(edits) and not unbeaten(evidence, alpha=how.alpha),
        controls={name: tuple(float(draw.mean()) for draw in each) for name, each in answered.items() if each},
        without=without,
        sites=tuple(dict.fromkeys(str(edit.selection.name) for edit in edits)),
        found=own, hits=hits, planted=plant.count, seconds=seconds,
    )  # fmt: skip


def apart(development: Sequence[Question], per_level: int, seed: int) -> list[Question]:
    """`per_level` test questions of each level about nobody whom a development question is about; fewer of a level
    where eight times as many do not hold them: there are some hundred people."""
    known = {question.origin for question in development}
    kept: list[Question] = []
    for times in (1, 2, 4, 8):
        others = [q for q in prompts(times * per_level, seed, stream="planted-test") if q.origin not in known]
        by_level: dict[int | None, list[Question]] = {}
        for question in others:
            by_level.setdefault(question.level, []).append(question)
        kept = [question for level in by_level.values() for question in level[:per_level]]
        if len(by_level) == len(LEVELS) and all(len(level) >= per_level for level in by_level.values()):
            break
    return kept


def _evidence(
    steered: Tensor, damaged: Tensor, gain: Difference, answered: Mapping[str, Sequence[Tensor]], seed: int,
    groups: Sequence[str],
) -> Evidence:  # fmt: skip
    """What the verdict's rule sees: exact match by question, and that of every draw of every control."""
    conditions = {STEERED: _share(steered), UNSTEERED: _share(damaged)}
    differences, draws = {f"{STEERED}-{UNSTEERED}": gain}, dict[str, list[float | None]]()
    for name, each in answered.items():
        if each:
            mean, family = torch.stack(list(each)).mean(0), f"{CONTROL}{name}"
            conditions[family] = _share(mean)
            differences[f"{STEERED}-{family}"] = paired_difference(steered, mean, seed=seed, groups=groups)
            draws[family] = [float(draw.mean()) for draw in each]
    return Evidence(conditions, differences, draws)


def _share(right: Tensor) -> Estimate:
    return Estimate(len(right), float(right.mean()), None, None)


def _edits(found: object, model: LanguageModel) -> list[Edit]:
    if isinstance(found, Recipe):
        return found.edits(model)
    if isinstance(found, Sequence) and all(isinstance(edit, Edit) for edit in found):
        return list(found)
    raise UsageError(f"a search gives a Recipe or a list of edits, not {type(found).__name__}")


def _channels(edits: Sequence[Edit], planted: Planted) -> tuple[int | None, int | None]:
    """How many channels of the plant's site are changed, and how many of them are planted."""
    here = [edit for edit in edits if edit.selection.name == planted.plant.full_site]
    if not here:
        return None, None
    changed = {c for edit in here for c in (edit.selection.channels or range(planted.width))}
    return len(changed), len(changed & set(planted.channels))


def _activity_on(model: LanguageModel, batches: Sequence[ForcedBatch]) -> Callable[[str], Activity | None]:
    """Mean and variance of a site's channels over the tokens of the development questions, computed once a site; None
    for a state, a filter, and whatever else has no value for each token and channel."""
    known: dict[str, Activity] = {}

    def activity(site: str) -> Activity | None:
        if channels_of(model, site) is None:
            return None
        if site not in known:
            seen: list[Tensor] = []
            for batch in batches:
                with torch.no_grad(), model.capture(site) as found:
                    model(batch.tokens, batch.mask)
                seen.append(found[site][batch.mask].double())
            values = torch.cat(seen)
            known[site] = Activity(values.mean(0), values.var(0, correction=0))
        return known[site]

    return activity
