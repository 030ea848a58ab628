"""What a report says, as plain frozen values: read by `load`, drawn by `figures`, laid out by `page`.

Numbers are those of the stages' tables, not computed again here. None means "not measured" or "not possible" (an
interval of fewer than two items), never zero; `missing` lists in words what a page has to do without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..scoring.statistics import Difference, Estimate

Role = Literal["unsteered", "steered", "control"]
TRACES_HEADING = "causal traces"  # of what `mplat trace` made


@dataclass(frozen=True)
class Condition:
    """A way of running the model. draws: how many random draws its numbers are the mean of, 0 where none is made."""

    name: str
    role: Role
    title: str
    draws: int = 0


@dataclass(frozen=True)
class LevelRow:
    """One level, or everything (`total`): exact match and F1 in the order of the conditions.

    n: test questions; scored: those that have a score under every condition.
    """

    title: str
    short: str  # as it stands below a figure
    total: bool
    n: int
    scored: int
    em: tuple[Estimate, ...]
    f1: tuple[Estimate, ...]


@dataclass(frozen=True)
class Comparison:
    """Paired differences of exact match, in the order of the level rows; `baseline` is the condition subtracted."""

    title: str
    baseline: str
    rows: tuple[Difference | None, ...]


@dataclass(frozen=True)
class StatusRow:
    """How many answers of a condition have which status, in the order of `Evaluation.statuses`."""

    condition: str
    counts: tuple[int, ...]


@dataclass(frozen=True)
class PriceRow:
    """Held-out texts under one condition: mean negative log-likelihood of a token in nats, and its change.

    bits_per_byte: of all texts together; kl: KL(unsteered || condition) of a token, nats; None in an earlier summary.
    """

    condition: str
    nll: Estimate
    change: Difference | None
    bits_per_byte: Estimate | None = None
    kl: Estimate | None = None


@dataclass(frozen=True)
class Candidate:
    """One candidate of the search, on all development questions."""

    rung: str
    site: str
    layer: int
    detector: str
    n_channels: int
    factor: float | None
    n: int
    logprob_gain: float | None  # nats per answer
    exact_gain: float | None


@dataclass(frozen=True)
class Answer:
    """One question of the test side with the answers of the unsteered and the steered model."""

    kind: str  # what became of it: "right both times", "right only when steered", ...
    id: str
    level: int | None
    prompt: str  # empty where the questions are not at hand
    gold: tuple[str, ...]
    unsteered: str
    steered: str
    unsteered_right: bool
    steered_right: bool


@dataclass(frozen=True)
class Found:
    """What the search says of the recipe: its gain in exact match on the development questions. naive: on those it was
    found on; cross_fitted: under recipes that were found without each question, with its standard error."""

    naive: float | None
    cross_fitted: float | None
    se: float | None
    n: int


@dataclass(frozen=True)
class Fact:
    """A line of provenance."""

    name: str
    value: str


@dataclass(frozen=True)
class Evaluation:
    """One evaluation run of one model. kind: of the verdict in one word, "" where there is none."""

    folder: str
    model: str
    variant: str
    verdict: str
    conditions: tuple[Condition, ...]
    levels: tuple[LevelRow, ...]
    cuts: tuple[LevelRow, ...]  # questions by what was cut of their prompts; empty where all were read whole
    comparisons: tuple[Comparison, ...]
    statuses: tuple[str, ...]
    status_rows: tuple[StatusRow, ...]
    price: tuple[PriceRow, ...]
    price_text: str  # on which text the price was measured; empty in an earlier summary
    beside: tuple[StepResults, ...]  # what is told beside the scores: doses, evidence distance, likelihoods
    recipe: tuple[str, ...] | None  # its parts in words; None where nothing was steered
    found: Found | None
    candidates: tuple[Candidate, ...]
    answers: tuple[Answer, ...]
    provenance: tuple[Fact, ...]
    reproduce: str
    missing: tuple[str, ...]
    kind: str = ""


Cell = float | int | str | None


@dataclass(frozen=True)
class ValueMap:
    """A number for every pair of a row and a column, what they are, and the scale of the colours."""

    title: str
    note: str
    label: str
    scale: Literal["linear", "log", "signed"]
    row_title: str
    column_title: str
    layers: tuple[int | float | str, ...]  # the rows; of most maps layers
    columns: tuple[int | float | str, ...]
    values: tuple[tuple[float | None, ...], ...]


class Point(NamedTuple):
    """A value with its interval at a place: a number, or the name of one."""

    x: float | str
    y: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curves:
    """Lines over numbers, a way through a plane (`path`), or marks at names (`names`, in their order)."""

    title: str
    note: str
    x_label: str
    y_label: str
    lines: tuple[tuple[str, tuple[Point, ...]], ...]  # title, empty for a single one; points
    names: tuple[str, ...] = ()
    log_x: bool = False
    log_y: bool = False
    path: bool = False
    marked: tuple[tuple[float, float], ...] = ()  # ranges of x that are shaded
    marked_title: str = ""
    limit: float | None = None  # a value of y that is drawn as a dashed line


@dataclass(frozen=True)
class ShownTable:
    """Rows under the names of their columns, `folded` behind its title; `left_out` further ones are not shown."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left_out: int = 0
    folded: bool = False


@dataclass(frozen=True)
class StepFile:
    """A table that a step has written: where it is, and how many of its rows have which status."""

    file: str
    rows: int
    statuses: tuple[tuple[str, int], ...]  # empty where the table has no statuses


@dataclass(frozen=True)
class StepResults:
    """What one analysis has to show."""

    step: str
    title: str
    explains: str
    shown: tuple[ValueMap | Curves | ShownTable, ...]
    files: tuple[StepFile, ...]
    tensors: tuple[str, ...]  # files of tensors
    notes: tuple[str, ...]  # what of its view there is nothing of


@dataclass(frozen=True)
class Interpretation:
    """What looks into a model, or a run of any other kind, has to show under a heading."""

    folder: str
    model: str
    steps: tuple[StepResults, ...]
    provenance: tuple[Fact, ...]
    missing: tuple[str, ...]
    heading: str = "inside the model"
    about: tuple[Fact, ...] = ()  # what was done, before what came out

    @property
    def maps(self) -> tuple[ValueMap, ...]:
        """Of all steps."""
        return tuple(shown for step in self.steps for shown in step.shown if isinstance(shown, ValueMap))

    @property
    def tables(self) -> tuple[ShownTable, ...]:
        """Of all steps."""
        return tuple(shown for step in self.steps for shown in step.shown if isinstance(shown, ShownTable))


@dataclass(frozen=True)
class CategoryRow:
    """How many questions fall into a category, by data set, and how many were drawn."""

    category: str
    level: int | None
    by_dataset: tuple[int, ...]
    ambiguous: int
    taken: int


@dataclass(frozen=True)
class Classification:
    """A classification of data sets into categories."""

    source: str
    rule_set: str
    datasets: tuple[str, ...]
    rows: tuple[CategoryRow, ...]
    notes: tuple[str, ...]


Series = tuple[tuple[float, float], ...]  # (step, value)


class Spike(NamedTuple):
    """The highest of neighbouring losses that stand out: its step, it, and the median of the losses before."""

    step: int
    loss: float
    usual: float


class Sample(NamedTuple):
    """How the model went on from a prompt after `step` steps: most probable token by token, and drawn."""

    step: int
    prompt: str
    greedy: str
    drawn: str


@dataclass(frozen=True)
class Training:
    """The log of a training run. loss: thinned out to what can be seen; mean_loss: of equal stretches of all lines.

    tokens_per_step: None where the log does not say it. sets: bits per byte of each held-out set. skipped: the steps
    whose loss or gradient was not finite. samples: of the prompts it was asked for samples of, in their order.
    """

    source: str
    model: str
    loss: Series
    held_out: Series
    exact_match: Series
    mean_loss: Series = ()
    bits_per_byte: Series = ()
    sets: tuple[tuple[str, Series], ...] = ()
    spikes: tuple[Spike, ...] = ()
    skipped: tuple[int, ...] = ()
    steps: int = 0  # the last one that is logged
    tokens_per_step: float | None = None
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything on one page."""

    title: str
    reproduce: str  # the command that makes everything on it; empty where there is not one
    evaluations: tuple[Evaluation, ...]
    interpretations: tuple[Interpretation, ...]
    classifications: tuple[Classification, ...]
    trainings: tuple[Training, ...]
    missing: tuple[str, ...]
    about: tuple[str, ...] = ()  # sentences that stand before the verdicts
    in_pieces: tuple[str, ...] = ()  # which tables have rows of smaller batches than planned

    @property
    def traces(self) -> tuple[Interpretation, ...]:
        """Of its interpretations those that `mplat trace` made."""
        return tuple(run for run in self.interpretations if run.heading == TRACES_HEADING)
