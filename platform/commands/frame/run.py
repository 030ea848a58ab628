"""How a command that runs a stage goes: its options become a configuration, that a plan, and the plan is carried out.

    @command("perplexity", order=46, config="perplexity.perplexity_run.PerplexityConfig")
    def perplexity(typed: Typed[PerplexityConfig]) -> Run: ...

The command's function makes the plan and returns a `Run`: what will be done in words and values, and the functions that
check the folder and do the work. Everything else happens here, once for all commands: warnings, --dry-run, folders,
where the work is done, progress, the result, and whether too much of it failed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ...core.errors import ToleranceError, UsageError
from ...core.plain_text import Table, byte_size, duration
from .folders import writable
from .options import Shared
from .output import Output
from .where import place

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ...core.config import FromOption
    from ...models.probe import Cost
    from ...runtime import Session
    from .config_options import FieldOption
    from .console import Console

ConfigT = TypeVar("ConfigT", bound="BaseModel")
Words = Sequence["str | Table"]


@dataclass(frozen=True)
class Typed(Generic[ConfigT]):
    """What was typed: the configuration, and what is no part of it."""

    model: type[ConfigT]
    shared: Shared
    output: Output
    values: Mapping[str, Any]  # of the configuration's options, by parameter
    settings: tuple[FromOption, ...] = ()  # further ones, of an option that is no field of the configuration

    @cached_property
    def config(self) -> ConfigT:
        """The configuration, without blocks of a model that is not known yet; UsageError for everything wrong in it."""
        return self._load(None)

    def with_blocks(self, n_layers: int) -> ConfigT:
        """The configuration with the options that name blocks of a model of so many; UsageError where one is not
        there."""
        return self._load(n_layers)

    def from_file(self, path: Path | None) -> Typed[ConfigT]:
        """The same with the configuration file `path`, where one is named so; UsageError beside another one."""
        if path is None:
            return self
        if self.shared.config is not None:
            raise UsageError(f"two configuration files, {path} and --config {self.shared.config}; give one")
        return replace(self, shared=Shared(**vars(self.shared) | {"config": path}))

    def with_value(self, parameter: str, value: Any) -> Typed[ConfigT]:
        """The same as if this had been typed too."""
        return replace(self, values={**self.values, parameter: value})

    def with_settings(self, option: str, settings: Mapping[str, Any]) -> Typed[ConfigT]:
        """The same with these settings, by dotted keys, which `option` gives. Raises UsageError for one that another
        option or --set gives too."""
        from ...core.config import FromOption

        typed = {field.key: field.name for field in self._fields() if self.values.get(field.parameter) is not None}
        typed |= {override.partition("=")[0].strip(): "--set" for override in self.shared.set}
        for key in settings:
            if key in typed:
                raise UsageError(f"{option} {key}: {typed[key]} gives it too; leave one of them out")
        further = tuple(FromOption(f"{option} {key}", key, value) for key, value in settings.items())
        return replace(self, settings=(*self.settings, *further))

    def without_out(self) -> Typed[ConfigT]:
        """The same without a folder for the results."""
        return replace(self, shared=Shared(**vars(self.shared) | {"out": None}))

    def options(self) -> list[str]:
        """The options of the configuration that were typed."""
        return [o.name for o in self._fields() if self.values.get(o.parameter) is not None]

    def _fields(self) -> list[FieldOption]:
        from .config_options import field_options

        return list(field_options(self.model))

    def _load(self, n_layers: int | None) -> ConfigT:
        from ...core.config import load_config
        from .config_options import settings

        own = settings(self.model, self.values, n_layers)
        return load_config(self.model, self.shared.config, [*own, *self.shared.set, *self.settings])

    def again(self, command: str) -> list[str]:
        """The words of a command that gives the same result."""
        shared, words = self.shared, ["mplat", *command.split()]
        words += [] if shared.config is None else ["--config", str(shared.config)]
        for option in self._fields():
            if (value := self.values.get(option.parameter)) is not None:
                words += option.typed(value)
        words += [word for override in shared.set for word in ("--set", override)]
        words += [word for one in self.settings for word in ("--set", f"{one.key}={json.dumps(one.value)}")]
        return words if shared.out is None else [*words, "--out", str(shared.out)]


class At(NamedTuple):
    """Where and before whom a run is carried out."""

    folder: Path
    fresh: bool
    session: Session
    console: Console


class Outcome(NamedTuple):
    """What a run found, as values for --json and in words; failure: why too much of it failed, if it did, or the error
    that the command ends with."""

    values: Mapping[str, Any]
    words: Words
    failure: str | Exception | None = None


@dataclass(frozen=True)
class Run:
    """A run that is planned and not begun."""

    work: Callable[[At], Outcome]
    folder: Path | None  # of the results, where --out names none; None: they are only shown then
    operations: float | None  # how much work it is, for --address auto; None: it is done in this process alone
    device: str = "cpu"  # where its models compute
    check: Callable[..., object] | None = None  # called with (folder, fresh=...): raises where it holds another run
    lines: Words = ()  # the plan
    plan: Mapping[str, Any] = field(default_factory=dict)  # the same for --json
    unit: str = "rows"  # what progress counts
    parts: int = 0  # how many parts it has, if they are numbered
    warnings: Sequence[str] = ()
    says_lines: bool = True  # before it begins; else only --dry-run shows the plan
    works_dry: bool = False  # --dry-run does the work too, which then writes nothing
    cost: Callable[[], Cost] | None = None
    prepare: Callable[[Path | None], object] = writable  # raises where what is written cannot be


def perform(function: Callable[..., Run | None], config: str, typed: dict[str, Any]) -> None:
    """Do what was `typed` (parameter -> value): the whole of a command with a configuration."""
    shared = Shared(**{name: typed.pop(name) for name in list(typed) if name in Shared.__annotations__})
    output = Output(json=shared.json, quiet=shared.quiet, verbose=shared.verbose)
    model = config_class(config)
    from .config_options import field_options

    values = {o.parameter: typed.pop(o.parameter) for o in field_options(model) if o.parameter in typed}
    run = function(Typed(model, shared, output, values), **typed)
    if run is not None:
        _carry_out(run, shared, output)


def _carry_out(run: Run, shared: Shared, output: Output) -> None:
    folder = shared.out or run.folder
    if folder is not None and run.check is not None:
        run.check(folder, fresh=shared.fresh)
    if run.says_lines:
        for line in run.lines:
            output.say(str(line))
    for warning in run.warnings:
        output.warn(warning)
    if shared.dry_run and not run.works_dry:
        _show_plan(run, folder, output)
        return
    run.prepare(folder)
    from .console import Console

    with ExitStack() as stack:
        session: Any = None
        if run.operations is not None:
            session = stack.enter_context(_session(run, shared))
        console = stack.enter_context(Console(output, run.unit, run.parts))
        outcome = run.work(At(folder or Path(), shared.fresh, session, console))
    output.result(outcome.values, *outcome.words)
    if outcome.failure is not None:
        raise ToleranceError(outcome.failure) if isinstance(outcome.failure, str) else outcome.failure


def _session(run: Run, shared: Shared) -> Session:
    """Where the work is done. Ray is not started for what only has to be read."""
    from ...runtime import open_session

    on_gpu = run.device != "cpu"
    if not run.operations:
        return open_session("none", threads_per_actor=shared.threads_per_actor)
    asked = shared.actors is not None or shared.gpus_per_actor is not None
    where = place(shared.address, asked, 0 if on_gpu else run.operations)
    if where != "none" and run.device.partition(":")[2] not in ("", "0"):
        raise UsageError(f"--device {run.device}: Ray chooses the GPU of each worker; give --device cuda, or "
                         "--address none to compute on that one in this process")  # fmt: skip
    gpus = shared.gpus_per_actor
    if gpus is None:
        gpus = 1 if on_gpu and where != "none" else 0
    elif on_gpu and gpus == 0 and where != "none":
        raise UsageError(
            f"--gpus-per-actor 0: workers have no GPU, and --device is {run.device}; leave one of them out"
        )
    return open_session(where, actors=shared.actors, threads_per_actor=shared.threads_per_actor, gpus_per_actor=gpus)


def _show_plan(run: Run, folder: Path | None, output: Output) -> None:
    values, words = dict(run.plan), list(run.lines) if output.quiet or not run.says_lines else []
    if run.cost is not None:
        cost = run.cost()
        values["cost"] = {name: value for name, value in cost._asdict().items() if value is not None}
        speed = "" if cost.tokens_per_second is None else f", at {cost.tokens_per_second:,.0f} tokens/s"
        disk = "" if cost.disk_bytes is None else f"; disk: at most about {byte_size(cost.disk_bytes)}"
        memory = f"memory: about {cost.memory_bytes / 2**30:.2g} GiB"
        words += [f"time: about {duration(cost.seconds)} in one process{speed}; {memory}{disk}"]
        words += [f"estimated: {cost.how}"]
    if folder is not None:
        values = {"out": str(folder)} | values
        words.append(f"out: {folder}")
    output.result(values, *words)


def config_class(path: str) -> type[BaseModel]:
    """The configuration that a command names by its module and name, below mplat; a function is asked for it."""
    module, _, name = path.rpartition(".")
    package = __name__.removesuffix(".commands.frame.run")
    named = getattr(import_module(f"{package}.{module}"), name)
    return named if isinstance(named, type) else named()
