"""Writes docs/listing.md: everything that is registered, by kind, each with the first sentence of its file.

Usage: python tools/listing.py [FILE]

Registries are found in the sources of platform/, and what is in them by asking them: there is no list to keep. A file
that is new, or whose first sentence is, changes the page; a test says when it has to be written again (`make format`
does).
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
INTRODUCTION = """# What there is

Everything registered, with the first sentence of its file. [Adding something](extending.md) says how each of these is
added. This page is written by `python tools/listing.py`.
"""


class Entry(NamedTuple):
    """A registered name and the module that defines it."""

    name: str
    module: str


def kinds() -> Iterator[tuple[str, list[Entry]]]:
    """Every kind with its entries, kinds in the order of their names."""
    from mplat.core.registry import decorated

    found: list[tuple[str, list[Entry]]] = []
    for path in sorted((ROOT / "platform").rglob("*.py")):
        for attribute in re.findall(r"^(\w+): Registry\[.*\] = Registry\(", path.read_text("utf-8"), re.MULTILINE):
            parts = path.relative_to(ROOT / "platform").with_suffix("").parts
            home = ".".join(["mplat", *(parts[:-1] if parts[-1] == "__init__" else parts)])
            registry = getattr(importlib.import_module(home), attribute)
            found.append((registry.kind, [Entry(name, registry.module(name)) for name in registry.names()]))
    kernels = [Entry(f"{operation}, {backend}", module)
               for (operation, backend), module in decorated("mplat.models.kernels", "kernel")]  # fmt: skip
    yield from sorted([*found, ("kernel backend", sorted(kernels))])


def path_of(module: str) -> Path:
    """The file of a module, relative to the root."""
    file = ROOT / "platform" / Path(*module.split(".")[1:])
    return (file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).relative_to(ROOT)


def first_sentence(path: Path) -> str:
    """Of the docstring of a file, as one line without what a table would take for its own."""
    text = " ".join((ast.get_docstring(ast.parse((ROOT / path).read_text("utf-8"))) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", text)[0].replace("|", "\\|")


def page() -> str:
    """The whole page."""
    sections = [INTRODUCTION]
    for kind, entries in kinds():
        rows = [f"| `{entry.name}` | {first_sentence(path)} | `{path}` |"
                for entry in entries for path in [path_of(entry.module)]]  # fmt: skip
        heading = f"## {kind[0].upper()}{kind[1:]}\n\n| name | what | file |\n| --- | --- | --- |\n"
        sections.append(heading + "\n".join(rows) + "\n")
    return "\n".join(sections)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "front")]
    Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "listing.md").write_text(page(), encoding="utf-8")
