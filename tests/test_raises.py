"""What a public function can raise on purpose stands in its docstring, or in that of its class.

A machine sees the errors of mplat that a body raises itself; what comes from functions it calls is for the reader.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mplat.models
import mplat.runtime
import pytest
from mplat.core import errors

ROOT = Path(__file__).resolve().parent.parent / "platform"
FOLDERS = ["core", "scoring", "steering", "interp/methods"]
ERRORS = {
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.MplatError)
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _public(tree: ast.Module) -> Iterator[tuple[str, Function, str]]:
    """(name, function, the docstrings that speak for it) of every public function, method and constructor."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            said = ast.get_docstring(node) or ""
            for inner in node.body:
                made = isinstance(inner, Function) and inner.name in (
                    "__init__",
                    "__post_init__",
                    "__call__",
                    "__enter__",
                )
                if isinstance(inner, Function) and (made or not inner.name.startswith("_")):
                    yield f"{node.name}.{inner.name}", inner, said + (ast.get_docstring(inner) or "")


def _raised(function: Function) -> set[str]:
    """The errors of mplat that stand behind `raise` in the function, those in what it defines included."""
    raised = {
        ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc).split(".")[-1]
        for node in ast.walk(function)
        if isinstance(node, ast.Raise) and node.exc is not None
    }
    return raised & ERRORS


def silent(source: str, names: set[str] | None = None) -> list[str]:
    """`function: errors` for what is raised and not said; of `names` alone where given."""
    return [
        f"{name}: {', '.join(sorted(unsaid))}"
        for name, function, said in _public(ast.parse(source))
        if (names is None or name.split(".")[0] in names)
        and (unsaid := {error for error in _raised(function) if error not in said})
    ]


def test_what_is_not_said_is_seen():
    """The sight of this test itself: a function, a method, a constructor and a nested function."""
    assert silent("def f():\n    raise UsageError('x')") == ["f: UsageError"]
    assert silent("class A:\n    def __init__(self):\n        raise errors.InputError('x')") == [
        "A.__init__: InputError"
    ]
    assert silent("def f():\n    '''Raises UsageError.'''\n    raise InputError from None") == ["f: InputError"]
    assert not silent("class A:\n    '''Raises InputError.'''\n    def f(self):\n        raise InputError('x')")
    assert not silent("def _f():\n    raise UsageError('x')\ndef g():\n    raise KeyError('x')")


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_functions_say_which_errors_they_raise(folder):
    wrong = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in silent(path.read_text(encoding="utf-8"))
    ]
    assert not wrong


@pytest.mark.parametrize("package", [mplat.models, mplat.runtime], ids=lambda package: package.__name__)
def test_what_a_package_exports_says_which_errors_it_raises(package):
    wrong: list[str] = []
    for module, names in sorted(_homes(package).items()):
        path = ROOT.joinpath(*module.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        wrong += [f"{module}: {line}" for line in silent(path.read_text(encoding="utf-8"), names)]
    assert not wrong


def _homes(package) -> dict[str, set[str]]:
    """Module -> names of what `package` exports that are defined there."""
    homes: dict[str, set[str]] = {}
    for name in package.__all__:
        thing = getattr(package, name)
        if hasattr(thing, "__qualname__"):
            homes.setdefault(thing.__module__, set()).add(thing.__qualname__)
    return homes
