"""The options of a command out of its configuration: every field marked with `mplat.core.option.Option`.

    parameters(EvalConfig)                  what the parser gets: names, placeholders, help
    settings(EvalConfig, {"draws": 5})      what was typed, as settings that messages call by their options

Sections are read like the configuration itself, so that a setting of a section, of an analysis say, is an option too.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import typer
from pydantic import BaseModel

from ...core.config import FromOption, models_in
from ...core.errors import UsageError
from ...core.option import Option
from ...core.typed_lists import parse_layers
from .options import as_path


class FieldOption(NamedTuple):
    """A field with the mark. key: dotted, as in --set; parameter: what the parser calls it."""

    key: str
    option: Option
    kinds: tuple[Any, ...]  # types of the field without None
    default: Any
    description: str

    @property
    def name(self) -> str:
        """The option as it is typed."""
        return self.option.name or "--" + self.key.rpartition(".")[2].replace("_", "-")

    @property
    def parameter(self) -> str:
        """What the parser calls it."""
        return self.key.replace(".", "__")

    def typed(self, value: Any) -> list[str]:
        """The words that give this value."""
        if isinstance(value, bool):
            return [self.name if value else str(self.option.off)]
        if isinstance(value, list):
            return [str(one) for one in value]
        return [self.name, str(value)] if self.name.startswith("--") else [str(value)]

    @property
    def kind(self) -> Any:
        """What the parser makes of the text; what needs a function to be read stays text. Of what may be typed several
        times, such as FILES, a list."""
        if self.option.parse or self.option.blocks or self.option.sets:
            return str
        if self.kinds == (Path, ...):
            return list[Path]
        return self.kinds[0] if len(self.kinds) == 1 and self.kinds[0] in (bool, int, float, Path) else str


def field_options(config: type[BaseModel], section: str = "") -> Iterator[FieldOption]:
    """The marked fields of a configuration and of its sections, in their order; inherited ones come last."""
    later: Mapping[str, Option] = getattr(config, "marks", {})
    names = dict.fromkeys(name for cls in config.__mro__ for name in vars(cls).get("__annotations__", {}))
    for name in (name for name in names if name in config.model_fields):
        field, key = config.model_fields[name], f"{section}{name}"
        mark = later.get(name) or next((mark for mark in field.metadata if isinstance(mark, Option)), None)
        if mark is not None:
            kinds = tuple(kind for kind in get_args(field.annotation) if kind is not NoneType)
            if get_origin(field.annotation) in (None, Literal) or not kinds:
                kinds = (field.annotation,)
            yield FieldOption(key, mark, kinds, field.default, field.description or "")
        for model in models_in(field.annotation):
            yield from field_options(model, f"{key}.")


def parameters(config: type[BaseModel], without: Collection[str] = ()) -> list[inspect.Parameter]:
    """The options of a configuration, `without` some, as the parameters of a function that typer reads.

    Raises UsageError where two fields claim one option, naming both.
    """
    taken: dict[str, str] = {}
    fields = [field for field in field_options(config) if field.name not in without]
    for field in fields:
        if taken.setdefault(field.name, field.key) != field.key:
            raise UsageError(f"{field.name} is the option of two settings, {taken[field.name]} and {field.key}; "
                             "give one of them another name")  # fmt: skip
    return [_parameter(field) for field in fields]


def _parameter(field: FieldOption) -> inspect.Parameter:
    option, kind = field.option, field.kind
    how: dict[str, Any] = {"help": option.help or field.description, "metavar": option.metavar or _metavar(field)}
    if kind in (Path, list[Path]):
        how["parser"] = as_path
    if option.shows_default:
        how["help"] += f"  [default: {field.default}]"
    if not field.name.startswith("--"):
        how["metavar"] = field.name
        shape, default = typer.Argument(**how), inspect.Parameter.empty
    else:
        names = [field.name if option.off is None else f"{field.name}/{option.off}"]
        shape, default = typer.Option(*names, **how, show_default=False), None
    annotation = Annotated[kind if default is inspect.Parameter.empty else kind | None, shape]
    return inspect.Parameter(field.parameter, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _metavar(field: FieldOption) -> str | None:
    choices = [choice for kind in field.kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    return "|".join(choices) or {int: "N", Path: "FILE"}.get(field.kind)


def settings(config: type[BaseModel], typed: Mapping[str, Any], n_layers: int | None = None) -> list[FromOption]:
    """What was typed (parameter -> value, None where nothing was) as settings.

    n_layers: of the model; options that name its blocks are left out without it. Raises UsageError for a list that
    cannot be read.
    """
    return [setting for field in field_options(config) for setting in _settings(field, typed, n_layers)]


def _settings(field: FieldOption, typed: Mapping[str, Any], n_layers: int | None) -> list[FromOption]:
    value: Any = typed.get(field.parameter)
    option, name = field.option, field.name
    if value is None or (option.blocks and n_layers is None):
        return []
    if option.sets is not None:
        return [FromOption(name, key, setting) for key, setting in option.sets(value).items()]
    if option.blocks:
        assert n_layers is not None
        value = parse_layers(value, n_layers, option=name)
    elif option.parse is not None:
        value = option.parse(value, name)
    elif isinstance(value, Path):
        value = str(value)
    elif field.kind == list[Path]:
        value = [str(path) for path in value]
    if value is False and option.off is not None:
        name = option.off
    return [FromOption(name, field.key, value)]
