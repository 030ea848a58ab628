"""Which code can change a result, found by reading it: a digest of each module that others import, transitively.

Sources are parsed and docstrings, comments and layout dropped before they are hashed, so that only code counts. Imports
are followed wherever they stand in a file, also inside functions, but not under `if TYPE_CHECKING`. A name that a
package only passes on (`from ..models import Scale`) leads to the module that defines it, not to the whole package.

What it does not see: what is found by name while running (entries of a registry, a worker's function): the caller knows
which of them a result needs and gives their modules as roots; code that is not Python, other packages (their versions
are part of the key apart), and what is patched at run time.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .collecting import uncollected
from .errors import InputError
from .parsed_sources import Kept

PACKAGE = "mplat"
FOLDER = Path(__file__).resolve().parent.parent
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # the fields of a node that hold statements


class Parsed(NamedTuple):
    """A module's digest, and what it imports: (level, module, ((name, name here), ...)), none for `import module`."""

    digest: str
    imports: tuple[tuple[int, str, tuple[tuple[str, str], ...]], ...]

    @classmethod
    def of(cls, value: Any) -> Parsed:
        """Out of plain JSON."""
        digest, imports = value
        names = ((level, module, tuple((name, here) for name, here in names)) for level, module, names in imports)
        return cls(digest, tuple(names))


def source_digests(roots: Sequence[str], *, folder: Path = FOLDER, package: str = PACKAGE) -> dict[str, str]:
    """`Sources.digests`, of the files as they are now."""
    return Sources(folder, package).digests(roots)


class Sources:
    """The modules of `package` in `folder`. Each file is looked for, read and parsed once, when it is first met."""

    def __init__(self, folder: Path = FOLDER, package: str = PACKAGE, *, keep: bool = False) -> None:
        """keep: what parsing finds is kept for later processes, in the cache folder."""
        self._folder, self._package = folder, package
        self._keep = keep
        self._kept: Kept | None = None
        self._new: dict[str, Parsed] = {}  # by the sha256 of a source
        self._paths: dict[str, Path | None] = {}
        self._parsed: dict[Path, Parsed] = {}
        self._imports: dict[str, tuple[str, ...]] = {}

    def digests(self, roots: Sequence[str]) -> dict[str, str]:
        """Module name -> digest for `roots` and every module of the package that they import, sorted by name.

        A root outside of the package (a step of one's own) must be imported already; its file is read.
        Raises InputError where a source file cannot be read.
        """
        digests: dict[str, str] = {}
        waiting = list(roots)
        while waiting:
            name = waiting.pop()
            if name not in digests:
                path = self._path(name) or _imported_file(name)
                digests[name] = self._parse(path).digest
                waiting += self._imported(name, path)
        if self._kept is not None and self._new:
            self._kept.add(self._new)
            self._new = {}
        return dict(sorted(digests.items()))

    def _imported(self, name: str, path: Path) -> tuple[str, ...]:
        """Names of the modules of the package that the module `name` imports."""
        if name not in self._imports:
            resolved = dict.fromkeys(self._resolved(name, path))
            self._imports[name] = tuple(module for module in resolved if self._path(module) is not None)
        return self._imports[name]

    def _resolved(self, name: str, path: Path) -> Iterator[str]:
        for level, module, names in self._parse(path).imports:
            absolute = _absolute(name, path, level, module)
            if absolute.split(".")[0] != self._package:
                continue
            if not names:
                yield absolute
            for imported, _ in names:
                yield self._definer(absolute, imported)

    def _definer(self, module: str, name: str) -> str:
        """The module in which `module` finds `name`: the one that a package passes it on from, its submodule, or
        itself."""
        path = self._path(module)
        if path is not None and path.name == "__init__.py":
            for level, origin, names in self._parse(path).imports:
                for imported, here in names:
                    if here == name:
                        return self._definer(_absolute(module, path, level, origin), imported)
        submodule = f"{module}.{name}"
        return module if self._path(submodule) is None else submodule

    def _path(self, name: str) -> Path | None:
        """The file of a module of the package, or None where it has no such module."""
        if name not in self._paths:
            self._paths[name] = _find(name, self._folder, self._package)
        return self._paths[name]

    def _parse(self, path: Path) -> Parsed:
        if path not in self._parsed:
            self._parsed[path] = self._known(_read(path))
        return self._parsed[path]

    def _known(self, source: bytes) -> Parsed:
        if not self._keep:
            return _parse(source)
        if self._kept is None:
            self._kept = Kept(hashlib.sha256(Path(__file__).read_bytes()).hexdigest())
        sha256 = hashlib.sha256(source).hexdigest()
        known = self._kept.get(sha256)
        if known is not None:
            return Parsed.of(known)
        return self._new.setdefault(sha256, _parse(source))


def _absolute(name: str, path: Path, level: int, module: str) -> str:
    """The full name of what the module `name` in the file `path` imports as `module`, with `level` dots before it."""
    if not level:
        return module
    parts = name.split(".")
    base = parts[: len(parts) - level + (path.name == "__init__.py")]
    return ".".join([*base, *module.split(".")] if module else base)


def _find(name: str, folder: Path, package: str) -> Path | None:
    first, *rest = name.split(".")
    if first != package:
        return None
    base = folder.joinpath(*rest)
    for path in (base / "__init__.py", base.with_suffix(".py") if rest else base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imported_file(name: str) -> Path:
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        raise InputError(f"module {name} has no source file that could be part of a key; put the step in a file")
    return Path(file)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); results are keyed by this source file") from error


@cache
@uncollected()
def _parse(source: bytes) -> Parsed:
    tree = ast.parse(source)
    imports: list[tuple[int, str, tuple[tuple[str, str], ...]]] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple((alias.name, alias.asname or alias.name) for alias in node.names)
            imports.append((node.level, node.module or "", names))
        waiting += _inside(node)
    _drop_texts(tree)
    text = ast.dump(tree, include_attributes=False)
    return Parsed(hashlib.sha256(text.encode()).hexdigest(), tuple(imports))


def _inside(node: ast.AST) -> list[ast.AST]:
    """The statements, handlers and cases right below a statement; none of its expressions holds any."""
    return [inner for block in _BLOCKS for inner in getattr(node, block, ())]


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _drop_texts(tree: ast.Module) -> None:
    """Statements that are only a text do nothing: docstrings, and the descriptions under fields."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        body: list[ast.stmt] | None = getattr(node, "body", None)
        if body is not None:
            body[:] = [s for s in body if not (isinstance(s, ast.Expr) and _is_text(s.value))]
        waiting += _inside(node)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
