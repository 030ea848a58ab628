"""The cache of step results: `<folder>/<step>/<key>/part-*.parquet`, tensors in `part-*.safetensors`, and a manifest
that makes them an entry.

Promises
- An entry is whole or not there: parts are published by the commit protocol of `mplat.core.whole_files`, and the
  manifest last.
- What is read is what was written: every read checks the digest of each whole file and every page's checksum. A damaged
  part is moved to `<folder>/.quarantine/`, a message names it, and the entry counts as absent, so that it is computed
  again.
- Each part says in its own footer or header which step, key and inputs it belongs to.
- Tensors are not held: each is read when it is asked for.
- Of two runs that need an entry one computes it, and the other reads it.
- Computing an entry again gives the same bytes, or an error that names both digests.

It deletes nothing unless asked to, and knows nothing of models or steps.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ...core.errors import InputError
from ...core.folder_lock import FolderLock, LockedError
from ...core.folders import cache_folder
from ...core.inside import leads_down
from ...core.json_files import parse, read_object
from ...core.whole_files import (
    Published,
    as_read,
    publish_json,
    publish_table,
    read_table,
    remove_unfinished,
    write_errors,
)
from ...runtime.plan import canonical_json
from .key import Key
from .step import StepOutput
from .tensor_parts import SUFFIX, StoredTensors, about_of, check_tensors, publish_tensors

MANIFEST = "manifest.json"
QUARANTINE = ".quarantine"
FORMAT = 1
_LOOK_S = 0.5  # how often it is looked whether another run has ended
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Part:
    """One file of an entry; `name` is the step's name for it, empty where there is only one."""

    name: str
    file: str
    sha256: str
    rows: int
    bytes: int
    tensors: int = 0  # how many it holds; a part holds rows or tensors


class Stored(NamedTuple):
    """What an entry holds, verified: tables and tensors by part, and the files that they are in, by `part_file`."""

    tables: Mapping[str, pa.Table]
    tensors: Mapping[str, StoredTensors]
    files: Mapping[str, Published]
    cut: Sequence[str] = ()  # batches that were computed in pieces


@dataclass(frozen=True)
class CachedResult:
    """A committed result."""

    step: str
    key: str
    components: Mapping[str, Any]
    parts: tuple[Part, ...]
    folder: Path
    questions: tuple[str, ...] = ()  # digests of the questions it was computed on; none in entries older than these
    cut: tuple[str, ...] = ()  # batches that were computed in pieces

    @property
    def bytes(self) -> int:
        """Size of all parts."""
        return sum(part.bytes for part in self.parts)


class Cache:
    """The entries below one folder, which need not exist yet. `warn` is called with every file that is set aside."""

    def __init__(self, folder: Path | None = None, *, warn: Callable[[str], None] | None = None) -> None:
        self.folder = cache_folder() if folder is None else Path(folder)
        self._warn = warn or (lambda text: None)

    def place(self, step: str, key: str) -> Path:
        """The folder of an entry, whether it exists or not."""
        return self.folder / step / key

    def work(self, step: str, key: str) -> Path:
        """Where unfinished work towards an entry is kept."""
        return self.folder / ".work" / f"{step}-{key[:32]}"

    @contextmanager
    def alone(self, step: str, key: str, tell: Callable[[str], None]) -> Generator[None]:
        """Be the only one that makes an entry or deletes it. Another run that does is waited for, and `tell` told."""
        path = self.folder / ".work" / f".{step}-{key[:32]}.lock"
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = None
        told = False
        while lock is None:
            try:
                lock = FolderLock(path)
            except LockedError as error:
                if not told:
                    tell(f"another run computes it, whose result is waited for: {error.by}")
                told = True
                time.sleep(_LOOK_S)
        try:
            remove_unfinished(self.place(step, key))
            yield
        finally:
            lock.release()

    def find(self, step: str, key: str) -> CachedResult | None:
        """The entry's manifest, or None where there is none or it is damaged; the parts are not read."""
        path = self.place(step, key) / MANIFEST
        if not path.exists():
            return None
        try:
            return _entry(path)
        except InputError as error:
            self._set_aside(path, step, key, str(error))
            return None

    def read(self, step: str, key: str) -> dict[str, pa.Table] | None:
        """The entry's tables by part, verified; None where it is absent or damaged."""
        stored = self.read_all(step, key)
        return None if stored is None else dict(stored.tables)

    def read_all(self, step: str, key: str) -> Stored | None:
        """The entry's tables and tensors by part, verified; None where it is absent or damaged."""
        entry = self.find(step, key)
        if entry is None:
            return None
        tables: dict[str, pa.Table] = {}
        tensors: dict[str, StoredTensors] = {}
        files: dict[str, Published] = {}
        for part in entry.parts:
            path = entry.folder / part.file
            try:
                if path.suffix == SUFFIX:
                    tensors[part.name] = check_tensors(path, part.sha256)
                else:
                    tables[part.name] = read_table(path, part.sha256, advice="")
            except InputError as error:
                self._set_aside(path, step, key, str(error))
                return None
            files[part.file] = Published(path, part.sha256, part.rows, part.bytes)
        return Stored(tables, tensors, files, entry.cut)

    def write(
        self, step: str, key: Key, tables: Mapping[str, pa.Table] | StepOutput, *, questions: Sequence[str] = ()
    ) -> dict[str, pa.Table]:
        """Commit an entry, with the digests of its questions, and return its tables as they will be read."""
        return dict(self.write_all(step, key, tables, questions=questions).tables)

    def write_all(
        self,
        step: str,
        key: Key,
        output: Mapping[str, pa.Table] | StepOutput,
        *,
        questions: Sequence[str] = (),
        cut: Sequence[str] = (),
    ) -> Stored:
        """`write`, with the tensors. Raises NonDeterministicError where its files are there with other bytes."""
        output = output if isinstance(output, StepOutput) else StepOutput(output)
        folder = self.place(step, key.digest)
        about = {"step": step, "key": key.digest, "key_inputs": canonical_json(dict(key.components))}
        footer = {f"mplat.{name}".encode(): value.encode() for name, value in about.items()}
        parts = []
        for name, table in sorted(output.tables.items()):
            marked = as_read(table.replace_schema_metadata({**(table.schema.metadata or {}), **footer}))
            path = folder / part_file(name, ".parquet")
            parts.append(_part(name, self._publish(partial(publish_table, marked, path), path, step, key.digest)))
        for name, tensors in sorted(output.tensors.items()):
            path = folder / part_file(name, SUFFIX)
            publish = partial(publish_tensors, tensors, path, about, replace=False)
            published = self._publish(publish, path, step, key.digest)
            parts.append(_part(name, published) | {"tensors": len(tensors)})
        publish_json(
            {
                "format": FORMAT,
                "step": step,
                "key": key.digest,
                "components": key.components,
                "parts": parts,
                "questions": list(questions),
            }
            | ({"cut": list(cut)} if cut else {}),
            folder / MANIFEST,
        )
        written = self.read_all(step, key.digest)
        if written is None:
            raise InputError(f"{folder}: what was written there cannot be read back; check the disk")
        return written

    def _publish(self, publish: Callable[[], Published], path: Path, step: str, key: str) -> Published:
        try:
            return publish()
        except InputError as error:  # what is there is no whole file: damage from before the entry was whole
            self._set_aside(path, step, key, str(error))
            return publish()

    def remove(self, step: str, key: str) -> None:
        """Delete an entry and the work towards it; the manifest first, so that half an entry is none."""
        folder = self.place(step, key)
        with write_errors(folder):
            (folder / MANIFEST).unlink(missing_ok=True)
            for path in (folder, self.work(step, key)):
                if path.exists():
                    shutil.rmtree(path)

    def entries(self, step: str | None = None) -> list[CachedResult]:
        """All entries (of one step), sorted by step and key. Damaged manifests are set aside."""
        found: list[CachedResult] = []
        steps = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        for place in steps:
            if not place.is_dir() or place.name.startswith(".") or step not in (None, place.name):
                continue
            keys = sorted(path.name for path in place.iterdir() if _KEY.fullmatch(path.name))
            found += [entry for key in keys if (entry := self.find(place.name, key)) is not None]
        return found

    def verify(self, entry: CachedResult) -> list[str]:
        """What is wrong with an entry's files, one sentence each; nothing is moved."""
        problems = []
        for part in entry.parts:
            path = entry.folder / part.file
            try:
                if _key_in(path, part.sha256) != entry.key:
                    problems.append(f"{path}: its footer names another key; the file was put there by hand")
            except InputError as error:
                problems.append(str(error))
        return problems

    def _set_aside(self, path: Path, step: str, key: str, why: str) -> None:
        """Move a damaged file to the quarantine and end the entry it belonged to."""
        with write_errors(path):
            target = self.folder / QUARANTINE / f"{step}-{key[:16]}-{uuid.uuid4().hex[:8]}-{path.name}"
            moved = ""
            if path.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
                moved = f"; the file is now {target}"
            (self.place(step, key) / MANIFEST).unlink(missing_ok=True)
        self._warn(f"cached result of {step} is damaged and will be computed again: {why}{moved}")


def part_file(name: str, suffix: str) -> str:
    """The name of the file that holds the part `name` of an entry."""
    return f"part-{name or '00000'}{suffix}"


def _part(name: str, published: Published) -> dict[str, Any]:
    return {"name": name, "file": published.path.name, "sha256": published.sha256, "rows": published.rows,
            "bytes": published.bytes}  # fmt: skip


def _key_in(path: Path, sha256: str) -> str | None:
    """The key that the file itself says it belongs to; InputError where it is damaged."""
    if path.suffix == SUFFIX:
        check_tensors(path, sha256)
        about = parse(about_of(path) or "{}", str(path))
        return about.get("key") if isinstance(about, dict) else None
    metadata = read_table(path, sha256, advice="").schema.metadata or {}
    return metadata.get(b"mplat.key", b"").decode()


def _entry(path: Path) -> CachedResult:
    """Read a manifest. Raises InputError where it is not one, or names files outside of its folder."""
    try:
        value = read_object(path)
        if value["format"] != FORMAT:
            raise InputError(f"{path}: format {value['format']}, this mplat reads {FORMAT}")
        parts = tuple(Part(**part) for part in value["parts"])
        entry = CachedResult(
            value["step"],
            value["key"],
            dict(value["components"]),
            parts,
            path.parent,
            tuple(value.get("questions", ())),
            tuple(value.get("cut", ())),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a manifest ({error})") from error
    if (entry.step, entry.key) != (path.parent.parent.name, path.parent.name):
        raise InputError(f"{path}: the manifest of another entry")
    if not all(leads_down(part.file) for part in parts):
        raise InputError(f"{path}: names a file outside of its folder")
    return entry
