"""Finding a recipe on development questions: which channels of which site and layer to scale, and by how much.

    plan = plan_search(model, questions, seed=0)
    found = discover(model, plan)
    found.recipe, found.naive, found.cross_fitted

A search (`halving`) is run on all questions but one fold, for each fold, and what it finds is scored on the fold
(`cross_fitting`). From that it is decided which family of candidates is worth its freedom, and whether any is better
than the model as it is beyond chance (at a stricter level where it is not the one that was chosen); if not, the recipe
has no part. Else the recipe is that family's candidate on all questions. Where every family is worse on the folds so
far, in either measure, the search ends there: this can only leave a model alone that might have been changed. A further
part is looked for in the same way with the first in force.

Promises: a pure function of the model, the questions and their order, sites, layers and the seed; every candidate is in
the table, the losers too; the tokens that it may read are planned and known before it starts. No test question is seen.
It asks what is given to it and nothing else: what a recipe is worth on other questions is for `mplat eval` to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from ..core.errors import InputError, UsageError
from ..datasets.prompting.asked_before import question_digests
from .answered import Answers, Asked, ask, batches, score_all, tokens_of
from .cross_fitting import CrossFitted, compare, folds
from .detectors import channels_of
from .effort import ROWS, Effort, Rung, rungs
from .gains import Gains, Place, frozen, places
from .halving import FAMILIES, Ladder, Log
from .recipe import Recipe
from .variants import Variant, variant_for

if TYPE_CHECKING:
    from ..datasets.prompting.templates import Template
    from ..datasets.records import Question
    from ..models import LanguageModel

ALPHA = 0.025  # one-sided, of both exact match and log-probability: below it a model is changed
#: from the most to the least that a search does
EFFORTS = (
    Effort(),
    Effort(screening=16, judging=48, foreseen=20, places=3, directions=2, trial=8, choosing=20, settling=24),
    Effort(screening=12, judging=24, foreseen=10, places=1, directions=2, trial=6, choosing=8, settling=10),
)

SEARCH_SCHEMA = pa.schema([
    pa.field("part", pa.int32(), nullable=False),  # of the recipe, from 0
    pa.field("fold", pa.int32()),  # that was left out; null: all questions
    pa.field("rung", pa.string(), nullable=False),
    pa.field("site", pa.string(), nullable=False),
    pa.field("layer", pa.int32(), nullable=False),
    pa.field("detector", pa.string(), nullable=False),  # that named the channels
    pa.field("n_channels", pa.int32(), nullable=False),
    pa.field("factor", pa.float64()),  # median over changed channels, of max(gain, 1 / gain)
    pa.field("n", pa.int32(), nullable=False),  # questions it was scored on
    pa.field("logprob_gain", pa.float64()),  # mean nats per answer; null where scores were not finite
    pa.field("exact_gain", pa.float64()),
    pa.field("tokens", pa.int64(), nullable=False),  # forward tokens of this score
])  # fmt: skip


@dataclass(frozen=True)
class SearchPlan:
    """What a search will do. items: the questions in tokens; questions: their digests. where: sites and layers.
    rungs: every stage with the tokens that it reads at most. parts: that a recipe has at most."""

    items: tuple[Asked, ...]
    questions: tuple[str, ...]
    where: tuple[Place, ...]
    effort: Effort
    parts: int
    seed: int
    alpha: float
    rungs: tuple[Rung, ...]

    @property
    def tokens(self) -> int:
        """Forward tokens that are read at most; a backward pass counts as two forward ones."""
        return sum(rung.tokens for rung in self.rungs)


@dataclass(frozen=True)
class Found:
    """What a search found. recipe: without parts where the model is best left as it is. table: every candidate, in
    `SEARCH_SCHEMA`. cross_fitted: of the family that was chosen, or would have been. naive: the difference on the
    questions that the recipe was found on, of the same family; it is the maximum of noise. families: every family's
    cross-fitted difference. tokens: forward tokens that were read."""

    recipe: Recipe
    table: pa.Table
    naive: CrossFitted | None
    cross_fitted: CrossFitted
    families: Mapping[str, CrossFitted]
    tokens: int


def plan_search(
    model: LanguageModel,
    questions: Sequence[Question],
    *,
    seed: int,
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    budget: int | None = None,
    parts: int = 1,
    alpha: float = ALPHA,
    max_tokens: int = 2048,
    template: Template | None = None,
    header: str = "",
    stop: str = "\n",
) -> SearchPlan:
    """The largest search that `budget` holds; nothing is computed with the model.

    sites: relative to a block; None for those of the model's variant (`searched_sites`). layers: None for all.
    budget: forward tokens, None for the largest search there is. parts: of a recipe, at most. alpha: one-sided level
    at which a model is changed. max_tokens, template, header, stop: of prompts and answers, as in `ask`. Raises
    UsageError where the budget cannot hold the smallest search, saying what that needs, and for sites and layers that
    do not exist; InputError where no question can be used.
    """
    if parts < 1 or not 0 < alpha < 1:
        raise UsageError(f"a search needs parts >= 1 and alpha between 0 and 1, not {parts} and {alpha}")
    if sites is None:
        sites = searched_sites(variant_for(model), model)
    where = tuple(places(model, sites, layers))
    items = tuple(ask(model, questions, max_tokens=max_tokens, template=template, header=header, stop=stop))
    asked = {item.id for item in items}
    digests = question_digests([question for question in questions if question.id in asked])
    needed = 0
    for effort in EFFORTS:
        planned = tuple(_planned(items, len(where), effort, parts, seed))
        needed = sum(rung.tokens for rung in planned)
        if budget is None or needed <= budget:
            return SearchPlan(items, digests, where, effort, parts, seed, alpha, planned)
    raise UsageError(
        f"the smallest search at {len(where)} places with {len(items)} questions reads {needed} tokens, the budget is "
        f"{budget}; raise it, or give fewer sites, layers or questions"
    )


def searched_sites(variant: Variant, model: LanguageModel) -> list[str]:
    """Where a search looks unless it is told: the sites whose channels the variant scales and some layer of the model
    has at every token; what blocks add, where it has none of them."""
    found = [site for site in variant.scaled_sites if any(p is not None for p in _channels(model, site))]
    return found or ["mixer_out"]


def _channels(model: LanguageModel, site: str) -> list[int | None]:
    return [channels_of(model, f"blocks.{layer}.{site}") for layer in range(model.n_layers)]


def _planned(items: Sequence[Asked], n_places: int, effort: Effort, parts: int, seed: int) -> list[Rung]:
    total = tokens_of(items)
    made: list[Rung] = []
    cut = folds(items, effort.folds, seed)
    for part in range(parts):
        head = f"part {part + 1}, " if parts > 1 else ""
        for number, out in enumerate(cut):
            inside = [item for i, item in enumerate(items) if i not in set(out)]
            made += [r._replace(name=f"{head}fold {number + 1}: {r.name}") for r in rungs(inside, n_places, effort)]
        made.append(Rung(f"{head}cross-fitting", len(FAMILIES), len(items), (1 + len(FAMILIES)) * total))
        made += [r._replace(name=f"{head}all: {r.name}") for r in rungs(items, n_places, effort)]
        made.append(Rung(f"{head}naive", 1, len(items), total))
    return made


def discover(model: LanguageModel, plan: SearchPlan) -> Found:
    """Run `plan`. Edits in force count as part of the model. Raises InputError where no question has finite scores."""
    log = Log()
    chosen: list[Gains] = []
    result: tuple[CrossFitted | None, CrossFitted, Mapping[str, CrossFitted]] | None = None
    with frozen(model):
        for number in range(plan.parts):
            edits = [edit for gains in chosen for edit in gains.edits()]
            with model.edit(*edits):
                found, naive, families, family = _part(model, plan, number, log)
            if result is None or found is not None:
                result = (naive, families[family], families)
            if found is None:
                break
            chosen.append(found)
    assert result is not None
    naive, cross_fitted, families = result
    made_from = {"questions": plan.questions}
    recipe = Recipe(tuple(gains.part() for gains in chosen), model.digest, "search", plan.seed, made_from)
    table = pa.Table.from_pylist(log.rows, schema=SEARCH_SCHEMA)
    return Found(recipe, table, naive, cross_fitted, families, log.tokens)


def _part(
    model: LanguageModel, plan: SearchPlan, number: int, log: Log
) -> tuple[Gains | None, CrossFitted | None, dict[str, CrossFitted], str]:
    """The gains of the part, None where the model is best left as it is; their naive difference; every family's
    cross-fitted one; and the family that was best."""
    asked = score_all(model, batches(plan.items, ROWS, model.device))
    log.tokens += tokens_of(plan.items)
    # a question without finite scores as the model is says nothing of what a candidate gains on it
    usable = [i for i in range(len(plan.items)) if bool(asked.finite[i])]
    items = [plan.items[i] for i in usable]
    if not items:
        raise InputError(f"{model.name} does not give finite scores to any development question")
    base = _at(asked, usable)
    steered = {family: base for family in FAMILIES}
    seen: list[int] = []
    families: dict[str, CrossFitted] = {}
    family = FAMILIES[0]
    by_fold: list[dict[str, Gains]] = []
    for fold, out in enumerate(folds(items, plan.effort.folds, plan.seed)):
        hidden = set(out)
        log.about = {"part": number, "fold": fold}
        inside = [item for i, item in enumerate(items) if i not in hidden]
        candidates = Ladder(model, inside, plan.effort, log).climb(plan.where)
        by_fold.append(candidates)
        outside = [items[i] for i in out]
        for family, gains in candidates.items():
            said = score_all(model, batches(outside, ROWS, model.device), gains.edits())
            log.tokens += tokens_of(outside)
            steered[family] = _placed(steered[family], out, said)
        seen = sorted([*seen, *out])
        scored = [items[i] for i in seen]
        before, after = _at(base, seen), {family: _at(said, seen) for family, said in steered.items()}
        families = {family: compare(scored, before, said, plan.seed) for family, said in after.items()}
        family = _worth_its_freedom(scored, before, after, plan.seed)
        if not any(said.exact >= 0 and said.logprob > 0 for said in families.values()):
            break
    if not families[family].convinces(plan.alpha):
        sure = [name for name in FAMILIES if families[name].convinces(plan.alpha / len(FAMILIES))]
        if not sure:
            return None, None, families, family
        family = sure[0]
    log.about = {"part": number, "fold": None}
    gains = _on_all(Ladder(model, items, plan.effort, log), plan.where, by_fold, family)
    if not gains.channels:
        return None, None, families, family  # what the folds agreed on is nothing on all questions
    said = score_all(model, batches(items, ROWS, model.device), gains.edits())
    log.tokens += tokens_of(items)
    return gains, compare(items, base, said, plan.seed), families, family


def _on_all(ladder: Ladder, where: Sequence[Place], by_fold: Sequence[Mapping[str, Gains]], family: str) -> Gains:
    """The candidate of a family on all questions, at a place that a fold found: from the fits of the folds where they
    were at one place, and else by a search of those."""
    found = {candidates[family].place for candidates in by_fold}
    fitted = [candidates["fitted"] for candidates in by_fold]
    if family == "common" or len({gains.place for gains in fitted}) > 1:
        return ladder.climb([place for place in where if place in found], [family])[family]
    return ladder.from_parts(fitted)


def _at(whole: Answers, rows: Sequence[int]) -> Answers:
    """The answers at `rows` alone."""
    return Answers(*(tensor[list(rows)] for tensor in whole))


def _placed(whole: Answers, rows: Sequence[int], part: Answers) -> Answers:
    """`whole` with `part` at `rows`."""
    made: list[torch.Tensor] = []
    for old, new in zip(whole, part, strict=True):
        changed = old.clone()
        changed[list(rows)] = new
        made.append(changed)
    return Answers(*made)


def _worth_its_freedom(items: Sequence[Asked], base: Answers, steered: Mapping[str, Answers], seed: int) -> str:
    """The family to take: a richer one only where more of its answers are right than of the one so far, by more than
    the standard error, and they are no less probable. What is more probable and not more often right is no reason."""
    best = FAMILIES[0]
    for family in FAMILIES[1:]:
        more = compare(items, steered[best], steered[family], seed)
        if more.exact > more.exact_se and more.logprob >= 0:
            best = family
    return best
