"""What an analysis step is, and the decorator that makes one. An analysis is one file in `steps/`:

    class Settings(StepSettings):
        sites: Sites = ("mixer_out",)

    @step("my_step", version=1, needs=("attribution",), settings=Settings, check=check_sites)
    def my_step(job: Job) -> Tables:
        "One sentence for `mplat interp ls`."
        rows = job.map(one_batch, BATCH_SCHEMA, {"sites": list(job.settings.sites)})
        ...
        return {"": table}

    def one_batch(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table: ...

Items are questions unless the decorator says `items="facts"` (factual prompts, `methods.prompts.FactItem`) or
`items="texts"` (plain texts).

What a step finds is tables, and tensors beside them where it returns a `StepOutput`. `view` says how a report shows it;
`others` which further models it is given; `also` which further steps its settings ask for; `cost` what it takes; what
it trains is trained by `fitting.fit` in `Job.folder`.

Forward passes belong into a batch function at the top level of the module: it may run in another process, on a batch
planned from the data alone, and must be a pure function of its arguments. The step's function puts the batches' rows
together, which come in the order of the plan. Raise `version` when the same sources give other results.

A wrong setting is refused before anything is computed: by the fields of `Settings` as far as they tell, and by `check`
where it takes the model or the settings of the steps needed.

This file knows no steps; the registry finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, get_args

import pyarrow as pa
from pydantic import AfterValidator

from ...core.config import Config
from ...core.registry import Registry
from .view import View

if TYPE_CHECKING:
    from torch import Tensor

    from ...models import LanguageModel
    from ...runtime.table_job import Progress
    from .batches import Batch

#: what a step looks at: questions with their answers, factual prompts with their subjects, or plain texts
Kind = Literal["questions", "facts", "texts"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: name of a part -> its rows; a step with a single table calls its part ""
Tables = Mapping[str, pa.Table]
#: name -> tensor, of one part; where they come from the cache each is read when it is asked for
Tensors = Mapping[str, "Tensor"]
BatchFunction = Callable[["LanguageModel", "Batch", Mapping[str, Any]], pa.Table]


class StepSettings(Config):
    """Base of a step's settings. Every field can change the result and is part of the key."""

    #: values under which the step takes about a second on a small model: for its contract, and for a first look
    small: ClassVar[Mapping[str, Any]] = {}


T = TypeVar("T", bound=tuple[Any, ...])


def named_once(values: T) -> T:
    """Validator of a field: at least one value, and none twice."""
    if not values or len(set(values)) < len(values):
        raise ValueError("name at least one, and each of them once")
    return values


#: sites of each block, relative to it; which there are is for `Step.check` to say
Sites = Annotated[tuple[str, ...], AfterValidator(named_once)]


class StepOutput(NamedTuple):
    """What a step found: tables by part, and tensors by part (of any names, in any dtype)."""

    tables: Tables
    tensors: Mapping[str, Tensors] = {}


class MapBatches(Protocol):
    """Runs a batch function over all planned batches and returns its rows in the order of the plan.

    `arguments` are plain JSON. Rows of one batch keep their order; columns are those of `schema`. model: which of
    `Job.models` the function is given, with the items in that model's own tokens. name: of the call among those of the
    step, by which an interrupted one is continued; default that of the function, so the second call of a function for
    one model has to give one. An item that ends every worker gets a row of status `worker_lost` where these have `id`,
    `status` and `reason`, else it is an error.
    """

    def __call__(
        self,
        function: BatchFunction,
        schema: pa.Schema,
        arguments: Mapping[str, Any],
        *,
        model: int = 0,
        name: str | None = None,
    ) -> pa.Table: ...


class StreamBatches(Protocol):
    """`MapBatches`, one table for each batch."""

    def __call__(
        self,
        function: BatchFunction,
        schema: pa.Schema,
        arguments: Mapping[str, Any],
        *,
        model: int = 0,
        name: str | None = None,
    ) -> Iterator[pa.Table]: ...


@dataclass(frozen=True)
class Excluded:
    """An item that does not go through the model, with the status that its rows get, and why."""

    id: str
    status: str
    reason: str


@dataclass(frozen=True)
class Job:
    """What a step works with."""

    model: LanguageModel
    items: Sequence[Any]  # of the step's kind, in the order given
    excluded: Sequence[Excluded]
    layers: Sequence[int]  # ascending
    settings: Any
    seed: int
    upstream: Mapping[str, Tables]  # results of the steps that this one needs
    map: MapBatches
    others: Sequence[LanguageModel] = ()  # further models, in the order of the step's roles
    other_items: Sequence[Sequence[Any]] = ()  # the items in the tokens of each of them
    upstream_tensors: Mapping[str, Mapping[str, Tensors]] = field(default_factory=dict)  # their tensors, by step
    folder: Path | None = None  # where unfinished work is kept until the result is cached; None: nowhere
    progress: Callable[[Progress], None] | None = None  # called with how far work is that is not `map`'s
    stream: StreamBatches | None = None  # see `batches`; None: all rows are held

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item."""
        return [item.length for item in self.items]

    def batches(
        self,
        function: BatchFunction,
        schema: pa.Schema,
        arguments: Mapping[str, Any],
        *,
        model: int = 0,
        name: str | None = None,
    ) -> Iterator[pa.Table]:
        """`map` for rows that do not fit into memory: the rows of one batch after the other, in the order of the plan.
        The first comes when all batches are computed; they are kept on disk."""
        if self.stream is None:
            yield self.map(function, schema, arguments, model=model, name=name)
        else:
            yield from self.stream(function, schema, arguments, model=model, name=name)

    @property
    def models(self) -> tuple[LanguageModel, ...]:
        """The model that is analysed, and the others."""
        return (self.model, *self.others)


@dataclass(frozen=True)
class Asked:
    """What is known of a step before anything is computed; upstream: settings of the steps that it needs."""

    model: LanguageModel
    layers: Sequence[int]
    settings: Any
    upstream: Mapping[str, Any]
    others: Sequence[LanguageModel] = ()


class Effort(NamedTuple):
    """What a step is expected to take. tokens: that could be read forwards in the time (forward-token equivalents);
    bytes: that it writes; seconds: of work besides that no model does."""

    tokens: float
    bytes: float = 0.0
    seconds: float = 0.0


#: the effort of a step that is `Asked`, for items of so many tokens each; see `costs`
Cost = Callable[[Asked, Sequence[int]], Effort]


#: further steps that a step gets the results of: by its settings, and by those of the steps that it always needs
Also = Callable[[Any, Mapping[str, Any]], Sequence[str]]


#: what further models are to a step, in order; an ellipsis behind the last: any number of those, at least one; an
#: ellipsis alone: any number, also none
Roles = tuple[str | EllipsisType, ...]


@dataclass(frozen=True)
class Step:
    """A registered analysis."""

    name: str
    version: int
    needs: tuple[str, ...]
    settings: type[StepSettings]
    seeded: bool  # whether it draws random numbers: only then is the seed part of its key
    function: Callable[[Job], Tables | StepOutput]
    check: Callable[[Asked], None] | None = None  # raises UsageError for what cannot be computed
    view: View | None = None  # how a report shows it; None: as a table
    items: Kind = "questions"
    others: Roles = ()  # what the further models are that it is given (`InterpConfig.compare`)
    cost: Cost | None = None  # what it takes, for --dry-run; None: a usual number of passes (`costs.USUAL`)
    code: Callable[[Any], Sequence[str]] | None = None  # modules that its settings find by name: part of its key
    also: Also | None = None  # steps that it needs under some settings alone

    def takes(self, others: int) -> bool:
        """Whether it can be given so many models beside the one that is analysed."""
        roles = [role for role in self.others if role is not ...]
        return others == len(roles) or (... in self.others and others > len(roles))

    @property
    def module(self) -> str:
        """Where it is defined; its sources are part of its key."""
        return self.function.__module__

    @property
    def meaning(self) -> str:
        """The first line of its docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


STEPS: Registry[Step] = Registry("interp step", "step", __name__, "..steps")
all_steps = STEPS.all
Function = TypeVar("Function", bound=Callable[[Job], "Tables | StepOutput"])


def step(
    name: str,
    *,
    version: int = 1,
    needs: Sequence[str] = (),
    settings: type[StepSettings] = StepSettings,
    seeded: bool = False,
    check: Callable[[Asked], None] | None = None,
    view: View | None = None,
    items: Kind = "questions",
    others: Roles = (),
    cost: Cost | None = None,
    code: Callable[[Any], Sequence[str]] | None = None,
    also: Also | None = None,
) -> Callable[[Function], Function]:
    """Register the decorated function as the step `name`, which looks at such `items` and gets the results of the steps
    it `needs`, and of those that `also` names. code: the modules of what its settings choose out of a registry."""

    def register(function: Function) -> Function:
        assert name.isidentifier(), f"a step's name is also a folder and a key: {name!r} will not do"
        entry = Step(
            name, version, tuple(needs), settings, seeded, function, check, view, items, others, cost, code, also
        )
        STEPS.add(name, entry, function.__module__)
        return function

    return register
