"""Configuration: a YAML file plus `--set a.b=c` overrides -> one frozen pydantic model.

Promises
- Safe: plain data of YAML 1.2 only (`mplat.core.yaml_source` says what is refused).
- Strict: an unknown key, a key given twice, a wrong type, an infinity or a NaN is a UsageError that names file and line
  (or the override) and the nearest valid key. Nothing is converted: `3` is no string and `"3"` is no number.
- What `dump_config` writes, `load_config` reads back as an equal model.

It reads no environment variables and looks in no other place than the path it is given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import UsageError, suggest
from .json_files import Plain
from .option import SEED, Option
from .yaml_source import Dumper, KeyPath, Source, dotted, kind, parse, read

ModelT = TypeVar("ModelT", bound=BaseModel)
#: a seed that torch, numpy and Python all take, and the option --seed
Seed = Annotated[int, SEED, Field(ge=0, lt=2**63)]


class FromOption(NamedTuple):
    """A key that an option of the command line sets. Messages name the option, because that is what was typed."""

    option: str  # --fail-over
    key: str  # fail_over
    value: Plain

    @property
    def place(self) -> str:
        """The option and its value as they may have been typed."""
        value = self.value
        return f"{self.option} {','.join(map(str, value)) if isinstance(value, list) else value}"


class Config(BaseModel):
    """Base of configuration models: frozen, and every unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    #: marks of inherited fields, which are options of this configuration and not of others with the same base
    marks: ClassVar[Mapping[str, Option]] = {}


def load_config(model: type[ModelT], path: Path | None, overrides: Sequence[str | FromOption]) -> ModelT:
    """The configuration in `path` (None: all defaults) with `overrides` (`a.b=c`, each key once) as a `model`.

    Raises UsageError for everything that can be wrong with either.
    """
    assert model.model_config.get("frozen") and model.model_config.get("extra") == "forbid", model
    source = read(path) if path is not None else Source("configuration", {})
    options: set[str] = set()
    given: set[str] = set()
    for override in overrides:
        if isinstance(override, FromOption):
            options.add(override.place)
            _set(source, override.key.split("."), override.value, override.place)
        else:
            key = override.partition("=")[0].strip()
            if key in given:
                raise UsageError(f"--set {override}: the key {key!r} is given twice; give it once")
            given.add(key)
            _apply(model, source, override)
    _refuse_non_finite(source)
    try:
        # Strict validation of JSON is what YAML means: lists may fill tuples and strings paths, but "3" is no number.
        return model.model_validate_json(json.dumps(source.data, allow_nan=False), strict=True)
    except ValidationError as error:
        lines = [_sentence(model, source, e, options) for e in error.errors(include_url=False)]
        more = [f"(and {len(lines) - 5} more)"] if len(lines) > 5 else []
        raise UsageError("\n".join(lines[:5] + more)) from None


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML, every key written out, in the order of the model."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def differing_keys(ours: BaseModel, stored: Mapping[str, Any], *, ignored: Set[str] = frozenset()) -> list[str]:
    """Dotted names, sorted, of the keys in which the configuration of an earlier run, as its record has it, differs
    from `ours`, `ignored` ones left out."""
    now = _flatten(ours.model_dump(mode="json"))
    # A key newer than the run had its default.
    then = _flatten(type(ours)().model_dump(mode="json")) | _flatten(stored)
    return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name) and name not in ignored)


def _flatten(values: Mapping[str, Plain], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):  # an empty one says nothing
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _apply(model: type[BaseModel], source: Source, override: str) -> None:
    """Set one key from `a.b=c` in place."""
    place = f"--set {override}"
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"{place}: write KEY=VALUE, with dots between nested keys, such as {_example(model)}")
    _set(source, keys, parse(text, place), place)


def _example(model: type[BaseModel]) -> str:
    """KEY=VALUE with a key that there is, a nested one if possible, and its default."""
    plain: list[str] = []
    for name, field in model.model_fields.items():
        for key, inner in ((f"{name}.{k}", f) for m in models_in(field.annotation) for k, f in m.model_fields.items()):
            if isinstance(inner.default, int | float | str):
                return f"{key}={json.dumps(inner.default)}"
        if isinstance(field.default, int | float | str):
            plain.append(f"{name}={json.dumps(field.default)}")
    return plain[0] if plain else "a.b=1"


def _set(source: Source, keys: list[str], value: Any, place: str) -> None:
    """Set one key in place; list items are named by their number (`a.0.b`)."""
    container: Plain = source.data
    path: KeyPath = ()
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(container, list):
            if not key.isdecimal() or int(key) >= len(container):
                raise UsageError(f"{place}: {dotted(path)!r} is a list of {len(container)} items, so {key!r} must be "
                                 "the number of one of them, from 0")  # fmt: skip
            items, number = container, int(key)
            path = (*path, number)
            if last:
                items[number] = value
            container = items[number]
        elif isinstance(container, dict):
            path = (*path, key)
            if last:
                container[key] = value
            elif container.get(key) is None:
                container[key] = {}
                source.places[path] = place
            container = container[key]
        else:
            raise UsageError(f"{place}: {dotted(path)!r} is a {kind(container)}, it has no key {key!r}")
    for known in [known for known in source.places if known[: len(path)] == path]:
        del source.places[known]
    source.places[path] = place


def _refuse_non_finite(source: Source) -> None:
    def check(value: Plain, path: KeyPath) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{source.place(path)}: {dotted(path)!r} must be a finite number, not {value}")
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                check(item, (*path, key))

    check(source.data, ())


def _sentence(model: type[BaseModel], source: Source, error: Any, options: Set[str]) -> str:
    """One of pydantic's errors as a sentence with its place; the places in `options` say key and value themselves."""
    path: KeyPath = tuple(error["loc"])
    # A union puts the names of its members into the path; only what was really written is of use to the reader.
    written = tuple(_written(source.data, path))
    place = source.place(written if error["type"] != "missing" else written[:-1])
    if error["type"] == "extra_forbidden":
        parent = dotted(written[:-1])
        inside = f" in {parent!r}" if parent else ""
        return f"{place}: unknown key {str(path[-1])!r}{inside}; {suggest(str(path[-1]), _fields(model, path[:-1]))}"
    if error["type"] == "missing":
        return f"{place}: the key {dotted(path)!r} is missing; it has no default"
    shown = json.dumps(error.get("input"), default=str, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.replace("a valid array", "a list").replace("an object", "a mapping")
    sentence = f"{message[:1].lower()}{message[1:]}"
    if place in options:
        return f"{place}: {sentence}"
    if isinstance(error.get("input"), dict) and error["type"] == "value_error":  # about several keys of a section
        return f"{place}: {dotted(written)}: {sentence}" if written else f"{place}: {sentence}"
    return f"{place}: {dotted(written)}={shown}: {sentence}"


def _written(data: Plain, path: KeyPath) -> Iterator[str | int]:
    for position, step in enumerate(path):
        if isinstance(data, dict) and step in data:
            data = data[step]
            yield step
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
            yield step
        elif position == len(path) - 1:
            yield step


def _fields(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The valid keys of the model that sits at `path` inside `model`."""
    current: list[type[BaseModel]] = [model]
    for step in path:
        inner = [m.model_fields[str(step)].annotation for m in current if str(step) in m.model_fields]
        current = [section for annotation in inner for section in models_in(annotation)] or current
    return [name for m in current for name in m.model_fields]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field of this type can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in models_in(argument)]
