"""How a command gets into the command line: one file in this folder, found by looking.

A command file does one of two things:

    @command("models")                    # or "runs show": two words make a command below a word
    def models(as_json: Json = False) -> None:
        "One line of help."               # the docstring is the help text

    def register(app: typer.Typer) -> None: ...      # for anything unusual

There is no list of commands to edit. Command files are imported for every start of the program, `mplat --help`
included, so they import nothing heavy at module level; torch, transformers, pyarrow, pydantic and the like belong into
functions.
A file that cannot be imported is an error of the whole program: a command never goes missing quietly.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import typer

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Command:
    """One command: its words as typed after `mplat`, the function that does it, and its place in `mplat --help`."""

    name: str
    function: Callable[..., Any]
    order: int
    hidden: bool


_COMMANDS: dict[str, Command] = {}


def command(name: str, *, order: int = 100, hidden: bool = False) -> Callable[[Function], Function]:
    """Decorator that makes a function a command.

    `name` is one word, or two ("interp ls"). Commands are listed by `order`, then by name: 10-19 the whole pipeline,
    20-39 stages that make data and models, 40-59 analysis, steering and evaluation, 60-79 results, 80-99 what exists
    and whether it works.
    """

    def add(function: Function) -> Function:
        previous = _COMMANDS.get(name)
        assert previous is None or previous.function.__module__ == function.__module__, f"command {name!r} exists twice"
        assert 1 <= len(name.split()) <= 2, f"a command is one or two words, not {name!r}"
        _COMMANDS[name] = Command(name, function, order, hidden)
        return function

    return add


def register_all(app: typer.Typer, package: str) -> None:
    """Import every module of `package` and add its commands to `app`, in the order of their help."""
    folder = importlib.import_module(package)
    for found in sorted(pkgutil.iter_modules(folder.__path__), key=lambda module: module.name):
        module = importlib.import_module(f"{package}.{found.name}")
        register = getattr(module, "register", None)
        if register is not None:
            register(app)
    for entry in sorted(_COMMANDS.values(), key=lambda c: (c.order, c.name)):
        app.command(entry.name, hidden=entry.hidden)(entry.function)
