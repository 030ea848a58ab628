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
from collections.abc import Iterator, MutableMapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .errors import InputError

PACKAGE = "mplat"
FOLDER = Path(__file__).resolve().parent.parent


class Parsed(NamedTuple):
    """A module's digest, and what it imports: (level, module, ((name, name here), ...)), none for `import module`."""

    digest: str
    imports: tuple[tuple[int, str, tuple[tuple[str, str], ...]], ...]


class Followed(NamedTuple):
    """A module's digest, and the names of the modules of the package that it imports."""

    digest: str
    imported: tuple[str, ...]


def source_digests(
    roots: Sequence[str], *, folder: Path = FOLDER, package: str = PACKAGE,
    known: MutableMapping[str, Followed] | None = None,
) -> dict[str, str]:  # fmt: skip
    """Module name -> digest for `roots` and every module of `package` that they import, sorted by name.

    known: what earlier calls with the same folder and package read, which is not read again; this call adds to it.
    A root outside of the package (a step of one's own) must be imported already; its file is read.
    Raises InputError where a source file cannot be read.
    """
    known = {} if known is None else known
    digests: dict[str, str] = {}
    waiting = [*roots]
    while waiting:
        name = waiting.pop()
        if name in digests:
            continue
        if name not in known:
            known[name] = _followed(name, folder, package)
        digests[name] = known[name].digest
        waiting += known[name].imported
    return dict(sorted(digests.items()))


def _followed(name: str, folder: Path, package: str) -> Followed:
    path = _path(name, folder, package) or _imported_file(name)
    parsed = _parse(_read(path))
    imported = dict.fromkeys(_resolved(parsed, name, path, folder, package))
    return Followed(parsed.digest, tuple(one for one in imported if _path(one, folder, package) is not None))


def _resolved(parsed: Parsed, name: str, path: Path, folder: Path, package: str) -> Iterator[str]:
    """Names of the modules of `package` that a module imports."""
    for level, module, names in parsed.imports:
        absolute = _absolute(name, path, level, module)
        if absolute.split(".")[0] != package:
            continue
        if not names:
            yield absolute
        for imported, _ in names:
            yield _definer(absolute, imported, folder, package)


def _absolute(name: str, path: Path, level: int, module: str) -> str:
    """The full name of what the module `name` in the file `path` imports as `module`, with `level` dots before it."""
    if not level:
        return module
    parts = name.split(".")
    base = parts[: len(parts) - level + (path.name == "__init__.py")]
    return ".".join([*base, *module.split(".")] if module else base)


def _definer(module: str, name: str, folder: Path, package: str) -> str:
    """The module in which `module` finds `name`: the one that a package passes it on from, its submodule, or itself."""
    path = _path(module, folder, package)
    if path is not None and path.name == "__init__.py":
        for level, origin, names in _parse(_read(path)).imports:
            for imported, here in names:
                if here == name:
                    return _definer(_absolute(module, path, level, origin), imported, folder, package)
    submodule = f"{module}.{name}"
    return module if _path(submodule, folder, package) is None else submodule


def _path(name: str, folder: Path, package: str) -> Path | None:
    """The file of a module of the package, or None where it has no such module."""
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
        waiting += ast.iter_child_nodes(node)
    text = ast.dump(_without_docstrings(tree), include_attributes=False)
    return Parsed(hashlib.sha256(text.encode()).hexdigest(), tuple(imports))


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Statements that are only a text do nothing: docstrings, and the descriptions under fields."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not (isinstance(s, ast.Expr) and _is_text(s.value))]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
