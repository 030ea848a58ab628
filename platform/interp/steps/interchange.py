"""Where and in which subspace a model keeps a variable of a question: interchange interventions with learned rotations.

Pairs of prompts of the facts world are made with the answer that the causal model gives where the base has the source's
value of a variable: whom a question is about, what it asks, or the answer to its first hop. Subspaces of a site are
exchanged between the two runs; one of them is learned (distributed alignment search), the others are what it has to be
compared with, see `methods.alignment_controls`. Everything is judged on pairs whose names occur in none of those that
subspaces were learned on.

The step makes its own prompts and looks at none of the run's questions.

Parts: `accuracy`, a row for each kind of subspace; `subspaces`, a row for each learned one, with what of it works by
itself; `pairs`. Tensors: `bases`, the learned subspaces, for `scale_subspace` in steering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, NamedTuple

import pyarrow as pa
from pydantic import AfterValidator, Field
from torch import Tensor

from ...core.errors import InputError, ToleranceError, UsageError
from ...datasets.facts.counterfactuals import Part, Variable
from ...models.shuffled import shuffled
from ..engine.effort import mean_length, of_files
from ..engine.fitting import Schedule, one_thread
from ..engine.places import Place, places, relative_names
from ..engine.statuses import MODEL_WRONG, NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, Sites, StepOutput, StepSettings, named_once, step
from ..engine.view import Column, LinePart, TablePart, View
from ..methods.alignment_controls import DAS, UNTRAINED, Found, Search, Sides, learned, learned_untrained, unlearned
from ..methods.alignment_rows import (
    ACCURACY_SCHEMA,
    SUBSPACE_SCHEMA,
    Row,
    accuracy_rows,
    correct_for_number,
    place_of,
    subspace_rows,
)
from ..methods.counterfactuals import READ_AT, Pair, Position
from ..methods.interchange import Region, prepare, regions
from ..methods.usable_pairs import PAIRS_SCHEMA, pair_row, usable_pairs

if TYPE_CHECKING:
    from ...models import LanguageModel

PARTS: tuple[Part, ...] = ("train", "test")
NONFINITE = "model_nonfinite"
#: sites that hold what later tokens read, and nothing else
_FOR_LATER = ("h_post", "conv_state")
_LEAST = 8  # pairs of a part, without which nothing is learned or judged


class Settings(StepSettings):
    small = {
        "variables": ("hop1",), "pairs": 16, "correct_only": False, "steps": 2, "seeds": 2, "draws": 2, "ranks": (2,),
    }  # fmt: skip
    variables: Annotated[tuple[Variable, ...], AfterValidator(named_once)] = ("entity", "relation", "hop1")
    """of the causal model: whom a question is about, what it asks, the answer to the first of two hops"""
    sites: Sites = ("resid_post",)
    """sites of each block, such as resid_post, mixer_out, or states (h, h_post), whose coordinates count as one axis"""
    positions: Annotated[tuple[Position, ...], AfterValidator(named_once)] = ("last", "entity")
    """tokens at which sites are exchanged: the last one, the name in the question, the end of the fact"""
    everywhere: bool = False
    """whether subspaces are learned at each position; else, in each block, at the one where the whole site, components
    of variance or channels set most on the pairs to learn on (of equals the first)"""
    parts: int = Field(1, ge=1)
    """runs of channels that each site is cut into, each exchanged by itself"""
    ranks: Annotated[tuple[int, ...], AfterValidator(named_once)] = (8, 32)
    """dimensions of the subspaces"""
    pairs: int = Field(128, ge=2 * _LEAST)
    """pairs of each variable: half to learn on, half to judge on"""
    correct_only: bool = True
    """whether only pairs count of which the model answers base, source and counterfactual prompt right"""
    drawn: int = Field(3, ge=1)
    """how many times as many pairs are drawn at most, to find enough right ones"""
    steps: int = Field(40, ge=1)
    """of learning"""
    batch_size: int = Field(16, ge=1)
    """pairs in a step"""
    learning_rate: float = Field(0.2, gt=0)
    """of AdamW; a step turns a subspace by about so many radians at first"""
    seeds: int = Field(3, ge=1)
    """how often each subspace is learned anew"""
    draws: int = Field(19, ge=1)
    """random subspaces to compare with; fewer than 19 cannot give a rank of .05"""
    natural: float = Field(0.99, gt=0, le=1)
    """share of the squares that the span of what a site holds, or of what is read of it, has to hold"""
    random_weights: bool = True
    """whether alignment is also learned on the model with shuffled weights"""


WORDS = {
    "entity": "whom the question is about", "relation": "what it asks", "hop1": "the first hop's answer",
    "last": "the last token", "fact": "the end of the fact", "das": "learned", "das_shuffled": "learned, other answers",
    "das_random_weights": "learned, shuffled weights", "pca": "largest variance", "channels": "channels by attribution",
    "full": "the whole site",
}  # fmt: skip
_WHERE = (Column("variable"), Column("layer"), Column("site"), Column("channels", absent="all"), Column("position"))
VIEW = View(
    "Where a variable of the question can be exchanged",
    "A subspace of a site takes its value from the run of another prompt; the accuracy is the share of pairs whose "
    "answer becomes what the facts say with the other prompt's value of the variable. It shows a variable where what "
    "is learned stands above random subspaces, other answers and shuffled weights, and does not copy the answer.",
    (
        LinePart(part="accuracy", x="layer", y="accuracy", low="low", high="high", group="kind",
                 each=("variable", "site", "channels", "position", "k"), only={"status": "ok", "kind": tuple(
                     kind for kind in WORDS if kind.startswith("das")) + ("random", "pca", "channels")},
                 title="{variable}: {site}, {position}, k = {k}", label="interchange accuracy", words=WORDS),
        TablePart(
            part="accuracy",
            title="Learned subspaces and the whole site",
            only={"status": "ok", "kind": ("das", "full")},
            columns=(
                *_WHERE, Column("kind"), Column("k"), Column("accuracy", low="low", high="high"),
                Column("said_source", "copies the source's"), Column("difference", "above random", "difference_low",
                                                                     "difference_high", form="signed"),
                Column("p_holm", form="p", absent="–"), Column("p_draws", form="p", absent="–"),
                Column("cosine_mean", "seeds agree", absent="–"),
            ),
            words=WORDS,
        ),
        TablePart(
            part="subspaces",
            title="What of a learned subspace works by itself",
            explains="Natural: in the span of what the site holds; read: of what the answer depends on. A part outside "
            "that works alone, or a part inside that does not, is the sign of a subspace that the model does not use.",
            only={"status": "ok"},
            columns=(
                *_WHERE, Column("k"), Column("fit"), Column("accuracy"), Column("natural"), Column("accuracy_natural"),
                Column("accuracy_unnatural", absent="–"), Column("read"), Column("accuracy_read", absent="–"),
                Column("accuracy_unread", absent="–"),
            ),
            folded=True,
        ),
    ),
)  # fmt: skip


def check(asked: Asked) -> None:
    """`Step.check`: the blocks have the sites, which hold real numbers and can be edited."""
    known = {site.name: site for site in asked.model.sites()}
    for place in places(asked.model, asked.layers, asked.settings.sites, one_axis=False):
        site = known[place.name]
        if not site.editable or not site.dtype.startswith(("float", "bfloat")):
            raise UsageError(f"site {place.site!r} holds {site.dtype} and {'can' if site.editable else 'cannot'} be "
                             "edited; an exchange needs real numbers that can be")  # fmt: skip


@dataclass
class _Tables:
    accuracy: list[Row] = field(default_factory=list[Row])
    subspaces: list[Row] = field(default_factory=list[Row])
    pairs: list[Row] = field(default_factory=list[Row])
    bases: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


class _Lacking(NamedTuple):
    status: str
    reason: str


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """`Step.cost`: pairs of its own, about as long as the prompts: what is learned, and what it stands beside."""
    settings: Settings = asked.settings
    places = len(settings.sites) * settings.parts * len(asked.layers) * len(settings.variables) * len(settings.ranks)
    learned = 3 * settings.steps * settings.batch_size * (settings.seeds + 1 + settings.random_weights)
    judged = settings.pairs / 2 * (settings.draws + 8)
    return Effort(0.1 * places * (learned + judged) * min(mean_length(lengths), 40.0), of_files(4) + 500_000)


@step("interchange", settings=Settings, seeded=True, check=check, view=VIEW, cost=cost)
def interchange(job: Job) -> StepOutput:
    """In which subspace of which site a question's entity, relation or first hop can be exchanged between prompts."""
    settings: Settings = job.settings
    tables = _Tables()
    models = [job.model, *([shuffled(job.model, job.seed)] if settings.random_weights else [])]
    with one_thread():
        for variable in settings.variables:
            try:
                pairs: Pairs = {part: _pairs(job, variable, part) for part in PARTS}
            except InputError as error:
                _say_lacking(tables, job, variable, settings.positions, _Lacking(NOT_APPLICABLE, str(error)))
                continue
            tables.pairs += [pair_row(job.model, variable, part, pair) for part in PARTS for pair in pairs[part]]
            fewest = min(map(len, pairs.values()))
            if fewest < _LEAST:
                reason = f"the model answers all prompts of {fewest} pairs right, of {_LEAST} that are needed"
                _say_lacking(tables, job, variable, settings.positions, _Lacking(MODEL_WRONG, reason))
                continue
            looked_at = [_at_position(job, variable, position, pairs, tables) for position in settings.positions]
            _add_learned(tables, job, variable, [here for found in looked_at for here in found], pairs, models[1:])
    correct_for_number(tables.accuracy)
    return StepOutput(
        {
            "accuracy": pa.Table.from_pylist(tables.accuracy, schema=ACCURACY_SCHEMA),
            "subspaces": pa.Table.from_pylist(tables.subspaces, schema=SUBSPACE_SCHEMA),
            "pairs": pa.Table.from_pylist(tables.pairs, schema=PAIRS_SCHEMA),
        },
        {"bases": tables.bases} if tables.bases else {},
    )


class _Here(NamedTuple):
    """Pairs at one position of one site, and what was found there without learning, region by region."""

    position: Position
    place: Place
    sides: Sides
    found: list[tuple[Region, list[Found]]]

    @property
    def most(self) -> float:
        """What any of these subspaces sets on the pairs to learn on."""
        return max(one.learned[0] for _, of in self.found for one in of)


Pairs = Mapping[Part, Sequence[Pair]]


def _at_position(job: Job, variable: Variable, position: Position, pairs: Pairs, tables: _Tables) -> list[_Here]:
    """Every place at this position with what is found there without learning; others get a row."""
    settings: Settings = job.settings
    places_: list[Place] = []
    for layer in job.layers:
        for site in relative_names(job.model, settings.sites):
            place, lacking = _place(job, variable, position, layer, site)
            if place is not None:
                places_.append(place)
            else:
                _say_lacking(tables, job, variable, [position], lacking, [(layer, site)])
    if not places_:
        return []
    try:
        sides = _sides(job.model, pairs, position, places_)
        return [
            _Here(position, place, sides, [
                (region, list(unlearned(sides, region, settings.ranks))) for region in regions(place, settings.parts)
            ])
            for place in places_
        ]  # fmt: skip
    except InputError as error:
        where = [(place.layer, place.site) for place in places_]
        _say_lacking(tables, job, variable, [position], _Lacking(NONFINITE, str(error)), where)
        return []


def _add_learned(
    tables: _Tables,
    job: Job,
    variable: Variable,
    looked_at: Sequence[_Here],
    pairs: Pairs,
    untrained: Sequence[LanguageModel],
) -> None:
    """Add what was found, by block, and learn where most was (or everywhere)."""
    settings: Settings = job.settings
    by_site: dict[tuple[int, str], list[_Here]] = {}
    for here in looked_at:
        by_site.setdefault((here.place.layer, here.place.site), []).append(here)
    chosen = [
        here
        for at in by_site.values()
        for here in (at if settings.everywhere else [max(at, key=lambda here: here.most)])
    ]
    controls = {
        position: _controls(pairs, position, [here.place for here in chosen if here.position == position], untrained)
        for position in settings.positions
    }
    for here in (here for at in by_site.values() for here in at):
        for region, found in here.found:
            if not any(here is one for one in chosen):
                _add(tables, job, variable, here, region, found)
                continue
            name = "-".join([variable, here.position, *region.label.replace(":", "-").split(".")])
            more = list(learned(name, here.sides, region, settings.ranks, _search(job)))
            control, lacking = _of_untrained(job, name, region, controls[here.position])
            _add(tables, job, variable, here, region, [*found, *more, *control])
            if lacking is not None:
                row = place_of(variable, region, here.position) | {"kind": UNTRAINED, **lacking._asdict()}
                tables.accuracy.append(row)


def _controls(
    pairs: Pairs, position: Position, there: Sequence[Place], untrained: Sequence[LanguageModel]
) -> list[Sides] | _Lacking:
    """The pairs on the model with shuffled weights, where it is asked for."""
    try:
        return [_sides(model, pairs, position, there) for model in untrained if there]
    except InputError as error:
        return _Lacking(NONFINITE, f"with shuffled weights: {error}")


def _of_untrained(
    job: Job, name: str, region: Region, control: list[Sides] | _Lacking
) -> tuple[list[Found], _Lacking | None]:
    """What is learned on the model with shuffled weights, or why there is nothing."""
    if isinstance(control, _Lacking):
        return [], control
    found: list[Found] = []
    try:
        for sides in control:
            found += learned_untrained(name, sides, region, job.settings.ranks, _search(job))
    except (InputError, ToleranceError) as error:
        return [], _Lacking(NONFINITE, f"with shuffled weights: {error}")
    return found, None


def _sides(model: LanguageModel, pairs: Pairs, position: Position, places_: Sequence[Place]) -> Sides:
    return Sides(model, *(prepare(model, pairs[part], position, places_) for part in PARTS))


def _search(job: Job) -> Search:
    settings: Settings = job.settings
    schedule = Schedule(settings.steps, settings.batch_size, settings.learning_rate)
    return Search(schedule, settings.seeds, settings.draws, settings.natural, job.seed, job.folder, job.progress)


def _add(tables: _Tables, job: Job, variable: Variable, here: _Here, region: Region, found: Sequence[Found]) -> None:
    """Add the rows of one region, and its learned subspaces."""
    at = place_of(variable, region, here.position)
    test, learned_on = here.sides.test, len(here.sides.train)
    tables.accuracy += [at | row for row in accuracy_rows(found, test.groups, learned_on, job.seed)]
    for k in job.settings.ranks:
        if k >= region.size:
            reason = f"the site has {region.size} dimensions, which the whole of it exchanges"
            tables.accuracy.append(at | {"k": k, "status": NOT_APPLICABLE, "reason": reason})
    for one in found:
        if one.kind == DAS:
            prefix = f"{variable}.{here.position}.{region.label}.k{one.k}"
            named = {f"{prefix}.{number}": basis for number, basis in enumerate(one.subspaces)}
            tables.bases |= {name: basis.reshape(-1, *region.shape) for name, basis in named.items()}
            tables.subspaces += [at | row for row in subspace_rows(one, list(named))]


def _place(job: Job, variable: Variable, position: Position, layer: int, site: str) -> tuple[Place | None, _Lacking]:
    """The site of a block, or why nothing can be said of it there."""
    if variable not in READ_AT[position]:
        return None, _Lacking(NOT_APPLICABLE, "the question has not been read there")
    if position == "last" and site.rpartition(".")[2] in _FOR_LATER:
        return None, _Lacking(NOT_APPLICABLE, "nothing after the last token reads it")
    name = f"blocks.{layer}.{site}"
    if name not in {known.name for known in job.model.sites()}:
        return None, _Lacking(NOT_APPLICABLE, "the block has no such site")
    return places(job.model, [layer], [site], one_axis=False)[0], _Lacking("", "")


def _say_lacking(
    tables: _Tables,
    job: Job,
    variable: Variable,
    positions: Sequence[Position],
    lacking: _Lacking,
    where: Sequence[tuple[int, str]] | None = None,
) -> None:
    """Add a row for each place, of all of them where `where` is None."""
    if where is None:
        where = [(layer, site) for layer in job.layers for site in relative_names(job.model, job.settings.sites)]
    tables.accuracy += [
        {"variable": variable, "layer": layer, "site": site, "position": position, **lacking._asdict()}
        for position in positions
        for layer, site in where
    ]


def _pairs(job: Job, variable: Variable, part: Part) -> list[Pair]:
    settings: Settings = job.settings
    return usable_pairs(
        job.model, variable, part, wanted=settings.pairs // 2, drawn=settings.drawn, correct_only=settings.correct_only,
        seed=job.seed,
    )  # fmt: skip
