"""How a command gets into the command line: one file in the folder above, found by looking.

    @command("models")                    # or "runs show": two words make a command below a word
    def models(as_json: Json = False) -> None:
        "One line of help."               # the docstring is the help text

There is no list of commands to edit. Command files are imported for every start of the program, `mplat --help`
included, so they import nothing heavy at module level; torch, transformers, pyarrow, pydantic and the like belong into
functions.
A file that cannot be imported is an error of the whole program: a command never goes missing quietly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import typer

from ...core.registry import Registry

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Command:
    """One command: its words as typed after `mplat`, the function that does it, and its place in `mplat --help`."""

    name: str
    function: Callable[..., Any]
    order: int
    hidden: bool


COMMANDS: Registry[Command] = Registry("command", "command", __name__, "..")


def command(name: str, *, order: int = 100, hidden: bool = False) -> Callable[[Function], Function]:
    """Decorator that makes a function a command.

    `name` is one word, or two ("interp ls"). Commands are listed by `order`, then by name: 10-19 the whole pipeline,
    20-39 stages that make data and models, 40-59 analysis, steering and evaluation, 60-79 results, 80-99 what exists
    and whether it works.
    """

    def add(function: Function) -> Function:
        assert 1 <= len(name.split()) <= 2, f"a command is one or two words, not {name!r}"
        COMMANDS.add(name, Command(name, function, order, hidden), function.__module__)
        return function

    return add


def register_all(app: typer.Typer) -> None:
    """Add every command to `app`, in the order of their help."""
    for entry in sorted(COMMANDS.all().values(), key=lambda c: (c.order, c.name)):
        app.command(entry.name, hidden=entry.hidden)(entry.function)
