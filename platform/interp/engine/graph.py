"""The steps that exist, and the order in which to run those that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...core.errors import UsageError, suggest
from .step import Step, StepSettings, all_steps

SettingsOf = Callable[[Step], StepSettings]


def defaults(step: Step) -> StepSettings:
    """A step's settings where nothing is set."""
    return step.settings()


def needs_of(step: Step, known: Mapping[str, Step], settings: SettingsOf = defaults) -> tuple[str, ...]:
    """The steps whose results `step` gets: those it always needs, and those that settings ask for."""
    if step.also is None:
        return step.needs
    upstream = {need: settings(known[need]) for need in step.needs}
    return tuple(dict.fromkeys((*step.needs, *step.also(settings(step), upstream))))


def in_order(
    names: Sequence[str] | None, known: Mapping[str, Step] | None = None, settings: SettingsOf = defaults
) -> list[Step]:
    """The named steps and everything they need, each after what it needs; otherwise in alphabetical order. None: those
    that take questions and can do without further models. settings: of each step, which may ask for others.

    Raises UsageError for a name that is no step, with the nearest one, and for steps that need each other in a circle.
    """
    known = all_steps() if known is None else known
    of_questions = [name for name, step in known.items() if step.items == "questions" and step.takes(0)]
    wanted = sorted(of_questions if names is None else names)
    if not wanted:
        raise UsageError(f"no step is named; {suggest('', known)}")
    ordered: dict[str, Step] = {}

    def visit(name: str, chain: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in chain:
            raise UsageError(f"interp steps need each other in a circle: {' -> '.join((*chain, name))}")
        if name not in known:
            needed = f", which {chain[-1]!r} needs" if chain else ""
            raise UsageError(f"unknown interp step {name!r}{needed}; {suggest(name, known)}")
        for need in needs_of(known[name], known, settings):
            visit(need, (*chain, name))
        ordered[name] = known[name]

    for name in wanted:
        visit(name, ())
    return list(ordered.values())
