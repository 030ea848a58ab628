"""Whether two files of results are the same, and in what they differ.

A result is the same where its bytes are. The one thing that may differ is a content key, which names how a file came
to be and changes with the code. Keys stand in the footer of a Parquet file (`KEY_METADATA`) or in a JSON object
(`KEY_NAMES`); everything else of such a file, its pages included, must still be the same to the last bit.

Promises: a NaN equals a NaN of the same bits, -0.0 is not 0.0, 1 is not 1.0, and no tolerance anywhere; a difference is
named by its column and first row, or by its place in the object. It knows nothing of what the columns mean.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

KEY_METADATA = frozenset({b"mplat.key", b"mplat.key_inputs", b"mplat.plan", b"mplat.shard"})
KEY_NAMES = frozenset({"key", "key_inputs", "plan", "code_digest"})
RECORD = "run.json"  # what a run was, its versions, its workers and its keys; also NAME.run.json
PAGES = frozenset({".html", ".png", ".svg"})  # drawn from the tables, and free to look better
WORK_FOLDER = "work"  # parts of unfinished tables, named by their keys; the tables are made of them

_FOOTER_TAIL = 8  # bytes at the end of a Parquet file: the footer's length, little-endian, and PAR1


class Verdict(NamedTuple):
    """What came out of comparing two files; `same` is false for a difference, true also for what is not compared."""

    same: bool
    words: str
    rows: int | None = None


class Allowed(NamedTuple):
    """What may differ between the two sides of a comparison."""

    keys: bool = True
    """Content keys."""
    renamed: Mapping[str, str] = {}
    """File before -> file after."""
    dropped_columns: Mapping[str, tuple[str, ...]] = {}
    """Pattern of files -> columns that are looked at on neither side."""

    def columns_dropped_of(self, file: str) -> tuple[str, ...]:
        """The columns of `file`, named as before, that are not compared."""
        patterns = self.dropped_columns.items()
        return tuple(column for pattern, columns in patterns if fnmatch(file, pattern) for column in columns)


def result_files(folder: Path, inputs: Collection[str] = ()) -> set[str]:
    """The files of results below `folder`: not those of the folders `inputs`, of work folders, or hidden ones."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        file.as_posix()
        for file in files
        if file.parts[0] not in inputs
        and WORK_FOLDER not in file.parts
        and not any(part.startswith(".") for part in file.parts)
    }


def compare_folders(
    before: Path, after: Path, allowed: Allowed, inputs: Collection[str] = ()
) -> list[tuple[str, Verdict]]:
    """Every file of results of either folder with its verdict, by name; renamed files under the name before."""
    old, new = result_files(before, inputs), result_files(after, inputs)
    verdicts: dict[str, Verdict] = {}
    for file in old:
        counterpart = allowed.renamed.get(file, file)
        if counterpart in new:
            new.discard(counterpart)
            verdicts[file] = compare_files(before / file, after / counterpart, file, allowed)
        else:
            verdicts[file] = _alone(file, f"missing after: {counterpart}")
    return sorted([*verdicts.items(), *((file, _alone(file, "missing before")) for file in new)])


def compare_files(before: Path, after: Path, file: str, allowed: Allowed) -> Verdict:
    """The verdict on two files that exist. file: their name before, which says what kind of file it is."""
    name, suffix = PurePosixPath(file).name, PurePosixPath(file).suffix
    old, new = before.read_bytes(), after.read_bytes()
    if _is_record(name):
        return Verdict(True, "not compared")
    if suffix in PAGES:
        return Verdict(True, "not judged: " + ("same bytes" if old == new else "other bytes"))
    try:
        if suffix == ".parquet":
            return _compare_tables(old, new, allowed, allowed.columns_dropped_of(file))
        if old == new:
            return Verdict(True, "same bytes")
        if suffix == ".json":
            return _compare_json(old, new, allowed)
    except (pa.ArrowException, OSError, ValueError) as error:
        return Verdict(False, f"cannot be read: {str(error).splitlines()[0]}")
    return Verdict(False, "other bytes")


def _is_record(name: str) -> bool:
    return name == RECORD or name.endswith(f".{RECORD}")


def _alone(file: str, words: str) -> Verdict:
    if PurePosixPath(file).suffix in PAGES or _is_record(PurePosixPath(file).name):
        return Verdict(True, f"not judged: {words}")
    return Verdict(False, words)


# Tables


def _compare_tables(old: bytes, new: bytes, allowed: Allowed, dropped: tuple[str, ...]) -> Verdict:
    before = pq.read_table(pa.BufferReader(old), use_threads=False)
    rows = before.num_rows
    if old == new:
        return Verdict(True, "same bytes", rows)
    after = pq.read_table(pa.BufferReader(new), use_threads=False)
    left_out = [column for column in dropped if column in {*before.column_names, *after.column_names}]
    before, after = _without(before, left_out), _without(after, left_out)
    if difference := _schema_difference(before.schema, after.schema) or _row_difference(before, after):
        return Verdict(False, difference, rows)
    keys, others = _metadata_difference(before.schema.metadata, after.schema.metadata)
    if others or (keys and not allowed.keys):
        return Verdict(False, f"same rows, other metadata: {', '.join(others or keys)}", rows)
    if not left_out and _pages(old) != _pages(new):
        return Verdict(False, "same rows, other pages: encoding, compression or row groups", rows)
    if not left_out and not keys:
        return Verdict(False, "same rows, other footer", rows)
    words = "same table" if not left_out else f"same table without {', '.join(left_out)}"
    return Verdict(True, f"{words}, other key: {', '.join(keys)}" if keys else words, rows)


def _without(table: pa.Table, columns: list[str]) -> pa.Table:
    return table.drop_columns([column for column in columns if column in table.column_names])


def _pages(data: bytes) -> bytes:
    """A Parquet file without its footer."""
    length = int.from_bytes(data[-_FOOTER_TAIL : -_FOOTER_TAIL + 4], "little")
    return data[: -_FOOTER_TAIL - length]


def _schema_difference(before: pa.Schema, after: pa.Schema) -> str | None:
    if before.names != after.names:
        gone = [name for name in before.names if name not in after.names]
        added = [name for name in after.names if name not in before.names]
        if not gone and not added:
            return f"other order of columns: {', '.join(before.names)} became {', '.join(after.names)}"
        return "other columns: " + "; ".join(
            f"{word} {', '.join(names)}" for word, names in (("without", gone), ("also", added)) if names
        )
    for old, new in zip(before, after, strict=True):
        if old.type != new.type:
            return f"column {old.name}: type {old.type} became {new.type}"
        if old.nullable != new.nullable:
            return f"column {old.name}: {'null is no longer' if old.nullable else 'null is now'} allowed"
        if not old.equals(new, check_metadata=True):
            return f"column {old.name}: other metadata"
    return None


def _metadata_difference(before: dict | None, after: dict | None) -> tuple[list[str], list[str]]:
    """The names of a table's metadata that differ: content keys, and others."""
    old, new = before or {}, after or {}
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    keys, others = ([n for n in names if (n in KEY_METADATA) is wanted] for wanted in (True, False))
    return [name.decode() for name in keys], [name.decode() for name in others]


def _row_difference(before: pa.Table, after: pa.Table) -> str | None:
    if before.num_rows != after.num_rows:
        return f"{before.num_rows} rows became {after.num_rows}"
    for name in before.column_names:
        old, new = (table.column(name).combine_chunks() for table in (before, after))
        differs = differing_rows(old, new)
        if differs.any():
            row = int(differs.argmax())
            was, became = (array[row].as_py() for array in (old, new))
            counted = f"{int(differs.sum())} of {before.num_rows} rows differ"
            return f"column {name}: {counted}, first row {row}: {_short(was)} became {_short(became)}"
    return None


def differing_rows(before: pa.Array, after: pa.Array) -> np.ndarray:
    """Which rows of two arrays of one type and length differ, (n,) bool. Floats are compared by their bits."""
    if pa.types.is_dictionary(before.type):
        before, after = before.dictionary_decode(), after.dictionary_decode()
    valid, valid_after = (np.asarray(array.is_valid()) for array in (before, after))
    differs = valid != valid_after
    both = np.flatnonzero(valid & valid_after)
    if not len(both):
        return differs
    old, new = before.take(pa.array(both)), after.take(pa.array(both))
    kind = old.type
    if pa.types.is_floating(kind):
        unequal = _bits(old) != _bits(new)
    elif pa.types.is_struct(kind):
        unequal = np.zeros(len(both), bool)
        for i in range(kind.num_fields):  # flatten() hands the nulls of the whole down; there are none here
            unequal |= differing_rows(old.flatten()[i], new.flatten()[i])
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        unequal = _lengths(old) != _lengths(new)
        same_length = pa.array(np.flatnonzero(~unequal))
        old, new = old.take(same_length), new.take(same_length)
        inside = differing_rows(old.flatten(), new.flatten())
        parents = np.repeat(np.asarray(same_length), _lengths(old))
        unequal[parents[inside]] = True
    else:
        unequal = np.asarray(pc.call_function("not_equal", [old, new]))
    differs[both] = unequal
    return differs


def _lengths(lists: pa.Array) -> np.ndarray:
    return np.asarray(pc.call_function("list_value_length", [lists]))


def _bits(floats: pa.Array) -> np.ndarray:
    values = np.ascontiguousarray(floats.to_numpy(zero_copy_only=False))
    return values.view(f"u{values.dtype.itemsize}")


# JSON


def _compare_json(old: bytes, new: bytes, allowed: Allowed) -> Verdict:
    """Objects in their order, numbers as they are written."""
    before, after = _parse(old), _parse(new)
    keys: list[str] = []
    if (difference := _value_difference(before, after, "", keys)) is not None:
        return Verdict(False, difference)
    if not keys:
        return Verdict(False, "same values, other order of keys or other spacing")
    return Verdict(allowed.keys, f"same values, other key: {', '.join(sorted(set(keys)))}")


def _parse(data: bytes) -> Any:
    return json.loads(data, parse_float=_Written, parse_int=_Written, parse_constant=_Written)


class _Written(str):
    """A number as it is written: unequal to a text of the same letters."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Written) and str.__eq__(self, other)

    __hash__ = str.__hash__


def _value_difference(before: Any, after: Any, place: str, keys: list[str]) -> str | None:
    """The first place where two values differ, in words; the places of content keys that differ go into `keys`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            inner = f"{place}.{name}".lstrip(".")
            if name in KEY_NAMES:
                if before.get(name) != after.get(name):
                    keys.append(inner)
            elif name not in before or name not in after:
                return f"{inner}: missing {'before' if name in after else 'after'}"
            elif difference := _value_difference(before[name], after[name], inner, keys):
                return difference
        return None
    if isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            return f"{place or 'list'}: {len(before)} entries became {len(after)}"
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            if difference := _value_difference(old, new, f"{place}[{i}]", keys):
                return difference
        return None
    same = type(before) is type(after) and before == after
    return None if same else f"{place or 'value'}: {_short(before)} became {_short(after)}"


def _short(value: object) -> str:
    text = str(value) if isinstance(value, _Written) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
