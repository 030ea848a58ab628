"""Points at which the same analyses are run: values of a setting, checkpoints of a training, or both.

    --sweep length=128,512                 the setting `length` at each of these values
    --sweep memory_decay.theta=.5,.7       a setting of a step; of several sweeps every combination is a point
    --checkpoints runs/x@100..2000         the checkpoints of a training run

A point is an ordinary run with a few settings of its own: it has content keys of its own, and what was computed at it
is there for any other run with these settings. A key of the configuration that holds a single value can be swept
without a line here; so what else is to be swept is made a setting (`InterpConfig`, or a step's own).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pyarrow as pa

from ...core.errors import UsageError
from ...core.typed_lists import parse_words
from ...core.yaml_source import parse
from ...models.files.training_record import checkpoints_of
from .columns import column
from .interp_config import config_model

Value = int | float | str | bool
TRAIN_STEP = "train_step"
_ELSEWHERE = {
    "model": "name checkpoints of a training with --checkpoints, or other models with --compare",
    "tokenizer": "start one command for each",
    "steps": "every step that is named runs at every point",
    "compare": "further models are the same at every point",
}


@dataclass(frozen=True)
class Axis:
    """What differs between points. column, meaning: of the joined tables. key: of the configuration, "" for
    checkpoints; values: of the column. models: names of the checkpoints; tokenizer: for them, where one is beside
    them."""

    column: str
    meaning: str
    key: str
    values: tuple[Value, ...]
    models: tuple[str, ...] = ()
    tokenizer: str | None = None

    def to_json(self) -> dict[str, object]:
        """As a run's record has it."""
        return {"column": self.column, "meaning": self.meaning, "values": list(self.values)}


@dataclass(frozen=True)
class Point:
    """values: by column. settings: of the configuration, by dotted keys. model, tokenizer: where it has its own."""

    values: Mapping[str, Value]
    settings: Mapping[str, Value] = field(default_factory=dict)
    model: str | None = None
    tokenizer: str | None = None

    @property
    def name(self) -> str:
        """`length=128, train_step=40`."""
        return ", ".join(f"{name}={value}" for name, value in self.values.items())


def swept(text: str) -> Axis:
    """`KEY=A,B,...`. Raises UsageError for another form, a key that there is not or that cannot be swept, a value given
    twice, and values that are no single ones or of several kinds."""
    place = f"--sweep {text}"
    key, equals, listed = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise UsageError(f"{place}: write KEY=A,B,..., such as length=128,512")
    if key in _ELSEWHERE:
        raise UsageError(f"{place}: {key!r} cannot be swept; {_ELSEWHERE[key]}")
    values = [parse(word, place) for word in parse_words(listed, "--sweep " + key)]
    single = [value for value in values if isinstance(value, int | float | str)]
    if len(single) < len(values) or len({_kind(value) for value in single}) > 1:
        raise UsageError(f"{place}: give numbers, or words, or true and false, not several kinds and no lists")
    if len(set(single)) < len(single):
        raise UsageError(f"{place}: a value is given more than once")
    return Axis(key.replace(".", "_"), _meaning(key), key, tuple(single))


def checkpoints(text: str, tokenizer: str | None) -> Axis:
    """The checkpoints that `text` selects (`checkpoints_of`). tokenizer: that was named; default: the one that the run
    has beside its trained model. Raises as `checkpoints_of`."""
    found = checkpoints_of(text)
    beside = Path(found[0][1].rpartition("@")[0]).expanduser() / "model"
    if tokenizer is None and (beside / "tokenizer.json").is_file():
        tokenizer = str(beside)
    steps, names = zip(*found, strict=True)
    meaning = "optimizer steps of the training after which the weights are these"
    return Axis(TRAIN_STEP, meaning, "", steps, names, tokenizer)


def points_of(axes: Sequence[Axis]) -> list[Point]:
    """Every combination, the values of the first axis changing last: that of the checkpoints comes first, so that a
    model is loaded once. Raises UsageError for two axes of one column."""
    columns = [axis.column for axis in axes]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise UsageError(f"--sweep: {twice} is swept twice; give all of its values in one list")
    found: list[Point] = []
    for places in product(*(range(len(axis.values)) for axis in axes)):
        at = list(zip(axes, places, strict=True))
        model = next(((axis.models[i], axis.tokenizer) for axis, i in at if axis.models), (None, None))
        settings = {axis.key: axis.values[i] for axis, i in at if axis.key}
        found.append(Point({axis.column: axis.values[i] for axis, i in at}, settings, *model))
    return found


def column_in(axis_column: str, names: Iterable[str]) -> str:
    """The name of an axis's column in tables whose own columns are `names`."""
    return f"swept_{axis_column}" if axis_column in names else axis_column


def joined(axes: Sequence[Axis], tables: Sequence[tuple[Point, pa.Table]]) -> pa.Table:
    """The tables of several points as one, with a column for each axis before the others."""
    own = {name for _, table in tables for name in table.column_names}
    marked: list[pa.Table] = []
    for point, table in tables:
        for place, axis in enumerate(axes):
            kind = pa.array(axis.values).type
            named = column(column_in(axis.column, own), kind, axis.meaning)
            values = pa.array([point.values[axis.column]] * table.num_rows, kind)
            table = table.add_column(place, named, values)
        marked.append(table)
    whole = pa.concat_tables(marked, promote_options="permissive")
    return whole.replace_schema_metadata(_metadata([table for _, table in tables]))


def _metadata(tables: Sequence[pa.Table]) -> dict[bytes, bytes]:
    """What the schemas of all of them say alike, but for the key of a single one."""
    first, *others = ({**(table.schema.metadata or {})} for table in tables)
    return {
        name: value
        for name, value in first.items()
        if not name.startswith(b"mplat.key") and all(other.get(name) == value for other in others)
    }


def _kind(value: Value) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def _meaning(key: str) -> str:
    """What the configuration says of a key; UsageError for one that there is not is raised where it is set."""
    model, words = config_model(), key.split(".")
    for word in words[:-1]:
        inner = model.model_fields[word].annotation if word in model.model_fields else None
        if not isinstance(inner, type) or not hasattr(inner, "model_fields"):
            return f"the setting {key}"
        model = inner
    said = model.model_fields[words[-1]].description if words[-1] in model.model_fields else None
    return said or f"the setting {key}"
