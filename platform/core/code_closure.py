"""Which code can change a result, found by reading it: a digest of each module that others import, transitively.

Sources are parsed and docstrings, comments and layout dropped before they are hashed, so that only code counts. Imports
are followed wherever they stand in a file, also inside functions, but not under `if TYPE_CHECKING`. A module that
imports by computed names (import_module, pkgutil) may import anything beside it: every module of its folder counts.

What it does not see: code that is not Python, other packages (their versions are part of the key apart), and what is
patched at run time.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .errors import InputError

PACKAGE = "mplat"
FOLDER = Path(__file__).resolve().parent.parent
_DYNAMIC = {"import_module", "iter_modules", "walk_packages", "__import__"}


class Parsed(NamedTuple):
    """A module's digest, and what it imports: (level, module, names), names empty for `import module`."""

    digest: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]
    dynamic: bool


def source_digests(roots: Sequence[str], *, folder: Path = FOLDER, package: str = PACKAGE) -> dict[str, str]:
    """Module name -> digest for `roots` and every module of `package` that they import, sorted by name.

    A root outside of the package (a step of one's own) must be imported already; its file is read.
    Raises InputError where a source file cannot be read.
    """
    found: dict[str, str] = {}
    waiting = [(name, _path(name, folder, package) or _imported_file(name)) for name in roots]
    while waiting:
        name, path = waiting.pop()
        if name in found:
            continue
        parsed = _parse(_read(path))
        found[name] = parsed.digest
        is_package = path.name == "__init__.py"
        for imported in _resolved(parsed, name, is_package, folder, package):
            target = _path(imported, folder, package)
            if target is not None:
                waiting.append((imported, target))
        if parsed.dynamic and name.split(".")[0] == package:
            waiting += _beside(path.parent, folder, package)
    return dict(sorted(found.items()))


def _resolved(parsed: Parsed, name: str, is_package: bool, folder: Path, package: str) -> Iterator[str]:
    """Names of the modules of `package` that a module imports."""
    parts = name.split(".")
    for level, module, names in parsed.imports:
        if level:
            base = parts[: len(parts) - level + (1 if is_package else 0)]
            absolute = ".".join([*base, *module.split(".")] if module else base)
        else:
            absolute = module
        if absolute.split(".")[0] != package:
            continue
        if not names:
            yield absolute
        for imported in names:
            submodule = f"{absolute}.{imported}"
            yield submodule if _path(submodule, folder, package) is not None else absolute


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


def _beside(place: Path, folder: Path, package: str) -> list[tuple[str, Path]]:
    """Every module in and below a folder of the package."""
    result = []
    for path in sorted(place.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        result.append((".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts))), path))
    return result


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
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    dynamic = False
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        dynamic = dynamic or _name(node) in _DYNAMIC
        waiting += ast.iter_child_nodes(node)
    text = ast.dump(_without_docstrings(tree), include_attributes=False)
    return Parsed(hashlib.sha256(text.encode()).hexdigest(), tuple(imports), dynamic)


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
