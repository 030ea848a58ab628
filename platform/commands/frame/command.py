"""How a command gets into the command line: one file in the folder above, found by looking.

    @command("models")                    # or "runs show": two words make a command below a word
    def models(as_json: Json = False) -> None:
        "One line of help."               # the docstring is the help text

    @command("eval", config="eval.eval_config.EvalConfig")     # its options come out of the configuration
    def evaluate(typed: Typed[EvalConfig]) -> Run: ...         # `run.py` does the rest

There is no list of commands to edit. Command files are imported for every start of the program, `mplat --help`
included, so they import nothing heavy at module level; torch, transformers, pyarrow, pydantic and the like belong into
functions. For the same reason the options of a command are made when it is asked for.
A file that cannot be imported is an error of the whole program: a command never goes missing quietly.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand
from typer.main import get_command_from_info
from typer.models import CommandInfo

from ...core.collecting import uncollected
from ...core.registry import Registry
from .drawing import coloured_help

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Command:
    """One command: its words as typed after `mplat`, the function that does it, and its place in `mplat --help`."""

    name: str
    function: Callable[..., Any]
    order: int
    hidden: bool
    config: str | None = None
    without: Collection[str] = ()
    address: str = "auto"

    def _lacks(self, option: str) -> bool:
        """Whether it has not the shared `option`; without workers it has nothing that is said of one."""
        return option in self.without or (option.endswith("-per-actor") and "--actors" in self.without)

    def callback(self) -> Callable[..., Any]:
        """What typer reads the options from and calls with them."""
        if self.config is None:
            return self.function
        from .config_options import parameters
        from .options import Shared
        from .run import config_class, perform

        config, function = self.config, self.function
        _, *own = inspect.signature(function).parameters.values()  # the first is what all options make
        named = SimpleNamespace(__annotations__={p.name: p.annotation for p in own})
        hints = get_type_hints(named, function.__globals__, include_extras=True)
        options = parameters(config_class(config), self.without)
        options += [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        for name, annotation in get_type_hints(Shared, include_extras=True).items():
            if not self._lacks("--" + name.replace("_", "-")):
                default = self.address if name == "address" else getattr(Shared, name)
                kind = inspect.Parameter.KEYWORD_ONLY
                options.append(inspect.Parameter(name, kind, default=default, annotation=annotation))

        def call(**typed: Any) -> None:
            perform(function, config, typed)

        call.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        return call


COMMANDS: Registry[Command] = Registry("command", "command", __name__, "..")


def command(
    name: str,
    *,
    order: int = 100,
    hidden: bool = False,
    config: str | None = None,
    without: Collection[str] = (),
    address: str = "auto",
) -> Callable[[Function], Function]:
    """Decorator that makes a function a command.

    `name` is one word, or two ("interp ls"). Commands are listed by `order`, then by name: 10-19 the whole pipeline,
    20-39 stages that make data and models, 40-59 analysis, steering and evaluation, 60-79 results, 80-99 what exists
    and whether it works. `config`: module and name, below mplat, of the configuration whose marked fields are options
    of the command, beside the shared ones; `without`: options of either that it does not have. `address`: the default
    of --address.
    """

    def add(function: Function) -> Function:
        assert 1 <= len(name.split()) <= 2, f"a command is one or two words, not {name!r}"
        entry = Command(name, function, order, hidden, config, frozenset(without), address)
        COMMANDS.add(name, entry, function.__module__)
        return function

    return add


class LazyCommand(TyperCommand):
    """A command whose options are made when they are first asked for; `entry` is set in a class for each command."""

    entry: Command

    @cached_property
    def _made(self) -> Any:
        with uncollected():  # the configuration imports all that it configures
            about = CommandInfo(name=self.name, callback=self.entry.callback())
        return get_command_from_info(about, pretty_exceptions_short=False, rich_markup_mode=None)

    def get_help(self, ctx: Any) -> str:
        """In colours on a terminal."""
        return coloured_help(super().get_help(ctx), sys.stdout)

    params = property(lambda self: self._made.params, lambda self, nothing: None)  # type: ignore[assignment]
    callback = property(lambda self: self._made.callback, lambda self, nothing: None)


def register_all(app: typer.Typer) -> None:
    """Add every command to `app`, in the order of their help."""
    for entry in sorted(COMMANDS.all().values(), key=lambda c: (c.order, c.name)):
        lazy = type("Command", (LazyCommand,), {"entry": entry})
        text = inspect.getdoc(entry.function)
        app.command(entry.name, hidden=entry.hidden, cls=lazy, help=text)(lambda: None)
