"""Running analysis steps for a model and questions: what is cached is read, what is missing is computed and cached.

Nothing is computed twice: a step runs only where the cache has no result under its key, and what it needs only where it
has to run itself. The tables are the same whatever the session, the number of workers or of interruptions.

A step that fails stops only those that need it: the others are run, and what failed is told at the end. What concerns
all of them stops the run at once: an interruption, a cluster that is lost, a disk that is full.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from ...core.errors import UsageError
from ...core.observer import Observer
from ...core.whole_files import Published
from ...models.lending import lent
from ...runtime.ledger import cut_shards
from ...runtime.run import in_pieces
from ...runtime.session import Session, open_session
from ...runtime.table_job import Progress
from .cache import Cache, Stored
from .encoded import Encoded, plan_digest, together
from .failures import Carried, Failure, forget_values, stops_everything
from .graph import all_steps, in_order, needs_of
from .inputs import Given, chosen_steps, encode_kind, read_missing
from .interp_config import InterpConfig, default_config, settings_of
from .key import Key, step_key
from .other_models import OtherModel, check_others, read_by
from .places import check_layers
from .statuses import bad_statuses
from .step import KINDS, Asked, Job, Kind, Step, StepSettings
from .tensor_parts import StoredTensors
from .work import BatchRunner

if TYPE_CHECKING:
    from ...datasets.records import Question
    from ...models import LanguageModel


@dataclass(frozen=True)
class Planned:
    """A step with everything that decides its result."""

    step: Step
    settings: StepSettings
    key: Key
    needs: tuple[str, ...]  # the steps whose results it gets


@dataclass(frozen=True)
class Plan:
    """The steps of a run in the order they would be computed, for a model and encoded items of each kind they take."""

    model: LanguageModel
    inputs: Mapping[Kind, Encoded]
    layers: tuple[int, ...]
    config: InterpConfig
    steps: Mapping[str, Planned]  # each after what it needs
    wanted: tuple[str, ...]  # those that were asked for
    others: tuple[OtherModel, ...] = ()  # for the steps that compare
    notes: tuple[str, ...] = ()  # in words, what of files could not be used
    left_out: tuple[str, ...] = ()  # steps that nobody named, of kinds of items that nobody named

    @property
    def data(self) -> Encoded:
        """The items of all kinds."""
        return together(self.inputs.values())


@dataclass(frozen=True)
class StepResult:
    """What a step found. `seconds` is None where the result was cached."""

    step: str
    key: str
    tables: Mapping[str, pa.Table]
    seconds: float | None
    tensors: Mapping[str, StoredTensors] = field(default_factory=dict)
    files: Mapping[str, Published] = field(default_factory=dict)  # in the cache, by `part_file`
    cut: Sequence[str] = ()  # batches that were computed in pieces

    @property
    def table(self) -> pa.Table:
        """The only table of a step that has one."""
        (table,) = self.tables.values()
        return table

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.num_rows for table in self.tables.values())

    @property
    def bad(self) -> dict[str, int]:
        """Rows without a value, by their status; empty where every row is ok."""
        return bad_statuses(self.tables.values())


def plan_steps(
    model: LanguageModel,
    questions: Sequence[Question] | None = None,
    config: InterpConfig | None = None,
    *,
    given: Given | None = None,
    others: Sequence[LanguageModel] = (),
    known: Mapping[str, Step] | None = None,
) -> Plan:
    """Which steps `config` asks for, with their keys; nothing is computed and no cache is read.

    questions, given: what is looked at; what they leave out is read as `config` says, generated prompts where it names
    none. Only what the steps take is read and encoded, each kind once. others: models for the steps that compare, those
    that `config.compare` names. known: the steps to choose from, default all.
    Raises UsageError for unknown steps, layers out of range, settings that this model cannot fulfil and models that no
    step compares, InputError for items that cannot be used.
    """
    config = default_config() if config is None else config
    given = (Given() if given is None else given)._replace(**({} if questions is None else {"questions": questions}))
    names = chosen_steps(config, known, len(others))
    ordered = in_order(names, known, partial(settings_of, config))
    needs = _needs(ordered, config)
    check_others(ordered, len(others))
    layers = check_layers(config.layers, model.n_layers)
    _check_settings(ordered, needs, model, others, layers, config)
    kinds: list[Kind] = [kind for kind in KINDS if kind in {step.items for step in ordered}]
    given = read_missing(kinds, config, given)
    inputs: dict[Kind, Encoded] = {kind: encode_kind(kind, model, config, given) for kind in kinds}
    read = tuple(read_by(other, given, config, inputs) for other in others)
    planned: dict[str, Planned] = {}
    for step in ordered:
        settings = settings_of(config, step)
        data, batches = _digests(inputs[step.items], config)
        key = step_key(
            step, model, settings=settings, layers=layers, seed=config.seed, data_digest=data, batches_digest=batches,
            upstream={need: planned[need].key.digest for need in needs[step.name]},
            others=[(other.model, *_digests(other.inputs[step.items], config))
                    for other in (read if step.others else ())],
        )  # fmt: skip
        planned[step.name] = Planned(step, settings, key, needs[step.name])
    left_out = () if config.steps else tuple(sorted((all_steps() if known is None else known).keys() - planned.keys()))
    wanted = tuple(config.steps or planned)
    return Plan(model, inputs, layers, config, planned, wanted, read, given.notes, left_out)


def _digests(data: Encoded, config: InterpConfig) -> tuple[str, str]:
    """Of the items and of their batches."""
    return data.digest, plan_digest(data.plan(config.batch_size))


def _needs(ordered: Sequence[Step], config: InterpConfig) -> dict[str, tuple[str, ...]]:
    known = {step.name: step for step in ordered}
    return {step.name: needs_of(step, known, partial(settings_of, config)) for step in ordered}


def _check_settings(
    ordered: Sequence[Step],
    needs: Mapping[str, Sequence[str]],
    model: LanguageModel,
    others: Sequence[LanguageModel],
    layers: Sequence[int],
    config: InterpConfig,
) -> None:
    settings = {step.name: settings_of(config, step) for step in ordered}
    for step in ordered:
        if step.check is not None:
            upstream = {need: settings[need] for need in needs[step.name]}
            try:
                step.check(Asked(model, layers, settings[step.name], upstream, others if step.others else ()))
            except UsageError as error:
                raise UsageError(f"{step.name}: {error}") from error


def run_steps(
    model: LanguageModel,
    questions: Sequence[Question] | None = None,
    config: InterpConfig | None = None,
    *,
    given: Given | None = None,
    others: Sequence[LanguageModel] = (),
    cache: Cache | None = None,
    session: Session | None = None,
    fresh: bool = False,
    observer: Observer | None = None,
) -> dict[str, StepResult]:
    """Results of the steps that `config` asks for, by name. See `plan_steps` and `run_plan`."""
    plan = plan_steps(model, questions, config, given=given, others=others)
    return run_plan(plan, cache=cache, session=session, fresh=fresh, observer=observer)


def run_plan(
    plan: Plan,
    *,
    cache: Cache | None = None,
    session: Session | None = None,
    fresh: bool = False,
    observer: Observer | None = None,
) -> dict[str, StepResult]:
    """Results of the wanted steps, and of others that had to run for them, by name. See `carry_out`.

    Raises the error of the first step that failed, after all that do not need it were run and cached.
    """
    return carry_out(plan, cache=cache, session=session, fresh=fresh, observer=observer).whole()


def carry_out(
    plan: Plan,
    *,
    cache: Cache | None = None,
    session: Session | None = None,
    fresh: bool = False,
    observer: Observer | None = None,
) -> Carried:
    """Run the wanted steps, and what has to run for them: what was found, and what failed.

    session: where forward passes run, default this process. fresh: delete cached results of these steps first.
    """
    cache = Cache() if cache is None else cache
    observer = Observer() if observer is None else observer
    if fresh:
        for name, planned in plan.steps.items():
            with cache.alone(name, planned.key.digest, partial(_waiting, observer, name)):
                cache.remove(name, planned.key.digest)
    chosen = open_session("none") if session is None else session
    try:
        with ExitStack() as stack:
            for model in (plan.model, *(other.model for other in plan.others)):
                stack.enter_context(lent(model))
            run = _Carrying(plan, cache, chosen, observer)
            for name in plan.wanted:
                run.obtain(name)
    finally:
        if session is None:
            chosen.close()
    return Carried(
        {name: run.results[name] for name in plan.steps if name in run.results},
        {name: run.failures[name] for name in plan.steps if name in run.failures},
    )


class _Carrying:
    """A plan while it is carried out."""

    def __init__(self, plan: Plan, cache: Cache, session: Session, observer: Observer) -> None:
        self._plan, self._cache, self._session, self._observer = plan, cache, session, observer
        self.results: dict[str, StepResult] = {}
        self.failures: dict[str, Failure] = {}

    def obtain(self, name: str) -> None:
        """The result of a step, read or computed, or its failure."""
        if name in self.results or name in self.failures:
            return
        try:
            self._obtain(name)
        except Exception as error:  # anything that a step may raise; it is told with its name, and raised by `whole`
            if stops_everything(error):
                raise
            forget_values(error)
            self._fail(Failure(name, self._plan.steps[name].key.digest, error))

    def _obtain(self, name: str) -> None:
        planned = self._plan.steps[name]
        key = planned.key.digest
        stored, seconds = self._cache.read_all(name, key), None
        if stored is not None:
            self._observer.say(f"{name}: cached")
        else:
            for need in planned.needs:
                self.obtain(need)
                if (failure := self.failures.get(need)) is not None:
                    self._fail(Failure(name, key, failure.error, failure.needed or need))
                    return
            with self._cache.alone(name, key, partial(_waiting, self._observer, name)):
                if (stored := self._cache.read_all(name, key)) is not None:
                    self._observer.say(f"{name}: computed by another run meanwhile")
                else:
                    stored, seconds = self._computed(planned)
        if stored.cut:
            self._observer.warn(in_pieces(name, len(stored.cut)))
        result = StepResult(name, key, stored.tables, seconds, stored.tensors, stored.files, stored.cut)
        self.results[name] = result
        if seconds is not None:
            self._observer.end(name, f"{result.rows} rows", seconds)

    def _computed(self, planned: Planned) -> tuple[Stored, float]:
        """The result, and the seconds that it took."""
        name = planned.step.name
        upstream = {need: self.results[need] for need in planned.needs}
        prompts = len(self._plan.inputs[planned.step.items].items)
        self._observer.begin(name, f"not in the cache, computed now on {prompts} prompts")
        start = time.monotonic()
        try:
            stored = _compute(self._plan, planned, upstream, self._cache, self._session, self._observer.progress)
        except Exception:
            self._observer.end(name, "no result", time.monotonic() - start)
            raise
        return stored, time.monotonic() - start

    def _fail(self, failure: Failure) -> None:
        self.failures[failure.step] = failure
        self._observer.warn(str(failure))


def _waiting(observer: Observer, name: str, what: str) -> None:
    observer.say(f"{name}: {what}")


def _compute(
    plan: Plan,
    planned: Planned,
    upstream: Mapping[str, StepResult],
    cache: Cache,
    session: Session,
    progress: Callable[[Progress], None],
) -> Stored:
    name, key = planned.step.name, planned.key
    folder = cache.work(name, key.digest)
    kind = planned.step.items
    data = plan.inputs[kind]
    others = [(other.model, other.inputs[kind]) for other in (plan.others if planned.step.others else ())]
    readers = ((plan.model, data), *others)
    runner = BatchRunner(name, key.digest, kind, readers, plan.config.batch_size, session, folder, progress)
    job = Job(
        model=plan.model,
        items=data.items,
        excluded=data.excluded,
        layers=plan.layers,
        settings=planned.settings,
        seed=plan.config.seed,
        upstream={need: result.tables for need, result in upstream.items()},
        map=runner,
        others=[other for other, _ in others],
        other_items=[read.items for _, read in others],
        upstream_tensors={need: result.tensors for need, result in upstream.items()},
        folder=folder,
        progress=progress,
        stream=runner.stream,
    )
    output = planned.step.function(job)
    written = cache.write_all(name, key, output, questions=data.questions, cut=cut_shards(folder))
    if folder.exists():
        shutil.rmtree(folder)  # the entry is whole; its batches are not needed again
    return written
