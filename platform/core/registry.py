"""The registry: what there is of one kind, by name, each entry made by a decorator in a file that nothing else lists.

    METRICS: Registry[Metric] = Registry("answer metric", "metric", __name__)
    metric = METRICS.instance  # @metric("squad_v1") above a class

The files are found by reading: those below a folder that hold a line `@metric("name"`. The name is a literal, so that
listing names imports nothing, and asking for one imports its file alone. Adding an entry is adding a file.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from .errors import UsageError, suggest
from .names import known_as

Entry = TypeVar("Entry")
Decorated = TypeVar("Decorated")


class Registry(Generic[Entry]):
    """Entries of one kind. `kind` is what messages call one; `folder` holds their files, relative to the package of
    `module`; `aliases` lets a name be spelt freely (`names.known_as`).

    Raises UsageError, naming both files, where two of them use one name.
    """

    def __init__(self, kind: str, decorator: str, module: str, folder: str = ".", *, aliases: bool = False) -> None:
        self.kind, self._decorator, self._aliases = kind, decorator, aliases
        self._package = resolve_name(folder, module.rpartition(".")[0]).rstrip(".")
        self._entries: dict[str, tuple[str, Entry]] = {}  # name -> module, entry

    def add(self, name: str, entry: Entry, module: str) -> None:
        """Enter `entry`, defined in `module`; the same module may do it again."""
        taken = self._entries.get(name, (module,))[0]
        if taken != module:
            raise UsageError(f"two {self.kind}s are called {name!r}, in {taken} and in {module}; rename one")
        self._entries[name] = (module, entry)

    def itself(self, name: str) -> Callable[[Decorated], Decorated]:
        """Decorator: the class or function is the entry `name`."""

        def register(thing: Decorated) -> Decorated:
            self.add(name, cast(Entry, thing), cast(Any, thing).__module__)
            return thing

        return register

    def instance(self, name: str) -> Callable[[type[Decorated]], type[Decorated]]:
        """Class decorator: one instance is the entry `name`; a class with an attribute `name` is given it."""

        def register(cls: type[Decorated]) -> type[Decorated]:
            if hasattr(cls, "name"):
                cast(Any, cls).name = name
            self.add(name, cast(Entry, cls()), cls.__module__)
            return cls

        return register

    def names(self) -> list[str]:
        """Every name there is, sorted."""
        return sorted({*self._files(), *self._entries})

    def full_name(self, name: str) -> str:
        """The name that `name` stands for; UsageError with the nearest one where there is none."""
        known = self.names()
        meant = known_as(name, known) if self._aliases else name if name in known else None
        if meant is None:
            raise UsageError(f"there is no {self.kind} {name!r}; {suggest(name, known)}")
        return meant

    def get(self, name: str) -> Entry:
        """The entry called `name`; UsageError as `full_name`."""
        return self._find(name)[1]

    def module(self, name: str) -> str:
        """The module that defines the entry called `name`; UsageError as `full_name`."""
        return self._find(name)[0]

    def all(self) -> dict[str, Entry]:
        """Every entry by name, sorted."""
        return {name: self.get(name) for name in self.names()}

    def _find(self, name: str) -> tuple[str, Entry]:
        if name not in self._entries:
            name = self.full_name(name)
        if name not in self._entries:
            importlib.import_module(self._files()[name])
        return self._entries[name]

    def _files(self) -> dict[str, str]:
        files: dict[str, str] = {}
        for (name, *_), module in decorated(self._package, self._decorator):
            if files.setdefault(name, module) != module:
                raise UsageError(f"two {self.kind}s are called {name!r}, in {files[name]} and in {module}; rename one")
        return files


@cache
def decorated(package: str, decorator: str) -> tuple[tuple[tuple[str, ...], str], ...]:
    """The literals with which each line `@decorator("literal", ...` below `package` begins, and that line's module."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations, package
    root = Path(spec.submodule_search_locations[0])
    lines = re.compile(rf'^@{decorator}\(\s*((?:"[^"]+"\s*,?\s*)+)', re.MULTILINE)
    found: list[tuple[tuple[str, ...], str]] = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])
        for literals in lines.findall(path.read_text("utf-8")):
            found.append((tuple(re.findall(r'"([^"]+)"', literals)), module))
    return tuple(found)
