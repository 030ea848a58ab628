"""Imports point downward only, and each layer keeps to what it promises not to touch.

    cli -> train, datasets, interp, steering, eval, report -> models -> kernels
    eval.metrics and eval.statistics lie below all stages; runtime is used by the stages through plain functions;
    errors, config and folders are used by all

The sources are read, not imported, so an import inside a function counts too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "platform"
FILES = sorted(PACKAGE.rglob("*.py"))
STAGES = {"train", "datasets", "interp", "steering", "eval", "report"}
BELOW_STAGES = {"eval.metrics", "eval.statistics"}
EVERYONE_MAY_USE = {"errors", "config", "yaml_source", "folders"}
MAY_USE = {
    "cli": STAGES | BELOW_STAGES | EVERYONE_MAY_USE | {"models", "runtime", "diagnosis", "cli"},
    "__main__": {"cli"},
    "diagnosis": EVERYONE_MAY_USE | {"models", "runtime"},
    **{stage: STAGES | BELOW_STAGES | EVERYONE_MAY_USE | {"models", "runtime"} for stage in STAGES},
    **{unit: EVERYONE_MAY_USE | {unit} for unit in BELOW_STAGES},
    "runtime": EVERYONE_MAY_USE | {"runtime", "models", "datasets"},
    "models": EVERYONE_MAY_USE | {"models"},
    **{name: EVERYONE_MAY_USE for name in EVERYONE_MAY_USE},
}
PURE = ["models/kernels", "eval/metrics", "eval/statistics"]  # numeric code: no files, no processes, no terminal
PURE_MAY_NOT_IMPORT = {
    "io",
    "subprocess",
    "socket",
    "requests",
    "urllib",
    "shutil",
    "tempfile",
    "pyarrow",
    "typer",
    "rich",
}
FILE_CALLS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink"}


def _id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module as an absolute name, with its line; imports for type checking only are left out."""
    package = ["mplat", *path.relative_to(PACKAGE).parent.parts]
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            yield module, node.lineno
            for alias in node.names:  # `from ..models import kernels` names a module too
                yield f"{module}.{alias.name}", node.lineno


def _unit(module: str) -> str | None:
    """The part of mplat that a module belongs to: `mplat.eval.answers` -> `eval`; None for other packages."""
    parts = module.split(".")
    if parts[0] != "mplat" or len(parts) < 2:
        return None
    below = ".".join(parts[1:3])
    return below if below in BELOW_STAGES else parts[1]


def _own(path: Path) -> str:
    """The part of mplat that a file belongs to."""
    unit = _unit(".".join(["mplat", *path.relative_to(PACKAGE).with_suffix("").parts]))
    assert unit is not None
    return unit


def _is_pure(path: Path) -> bool:
    if path.name == "registry.py":  # looks into its folder to find what there is
        return False
    return any(_id(path).startswith((f"{pure}/", f"{pure}.py")) for pure in PURE)


def test_there_are_sources_to_look_at():
    assert len(FILES) > 20
    assert {("mplat.errors", True), ("json", True)} <= {(m, True) for f in FILES for m, _ in _imports(f)}


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_imports_point_downward(path):
    own = _own(path)
    assert own in MAY_USE, f"{own} is new: give it a place in the layers of this test and of ARCHITECTURE.md"
    units = {_own(file) for file in FILES}
    for module, line in _imports(path):
        unit = _unit(module)
        if unit in units:  # `from .. import errors` also yields names that are no modules
            assert unit in MAY_USE[own], f"{_id(path)}:{line}: {own} may not import {module}"


def test_stages_do_not_import_each_other_in_a_circle():
    uses: dict[str, set[str]] = {stage: set() for stage in sorted(STAGES)}
    for path in FILES:
        own = _own(path)
        if own in STAGES:
            uses[own] |= {unit for module, _ in _imports(path) if (unit := _unit(module)) in STAGES and unit != own}
    remaining = dict(uses)
    while free := [stage for stage, used in remaining.items() if not used & remaining.keys()]:
        for stage in free:
            del remaining[stage]
    assert not remaining, f"these stages import each other: {remaining}"


@pytest.mark.parametrize("path", [f for f in FILES if _own(f) != "runtime"], ids=_id)
def test_only_the_runtime_imports_ray(path):
    for module, line in _imports(path):
        assert module.split(".")[0] != "ray", f"{_id(path)}:{line} imports {module}"


def test_importing_a_stage_imports_no_ray():
    """So that everything but a Ray address works where Ray is not installed."""
    stages = [name for name in sorted(STAGES | {"runtime", "models"}) if (PACKAGE / name / "__init__.py").exists()]
    code = (
        f"import importlib, sys; sys.modules['ray'] = None; [importlib.import_module('mplat.' + n) for n in {stages}]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [f for f in FILES if _own(f) != "cli"], ids=_id)
def test_only_the_command_line_imports_typer_and_rich(path):
    for module, line in _imports(path):
        assert module.split(".")[0] not in ("typer", "rich", "click"), f"{_id(path)}:{line} imports {module}"


@pytest.mark.parametrize("path", [f for f in FILES if _is_pure(f)], ids=_id)
def test_numeric_code_touches_no_files(path):
    for module, line in _imports(path):
        assert module.split(".")[0] not in PURE_MAY_NOT_IMPORT, f"{_id(path)}:{line} imports {module}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            assert name not in FILE_CALLS, f"{_id(path)}:{node.lineno} calls {name}"


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_imports_inside_the_package_are_relative(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not [n for n in names if n.split(".")[0] == "mplat"], _id(path)


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_a_file_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{_id(path)} has no docstring"


def test_the_package_folder_is_no_package_and_every_folder_in_it_is():
    assert not (PACKAGE / "__init__.py").exists(), "it would hide Python's own module named platform"
    for path in FILES:
        folders = path.relative_to(PACKAGE).parent.parts
        for depth in range(1, len(folders) + 1):
            assert PACKAGE.joinpath(*folders[:depth], "__init__.py").exists(), (
                f"{'/'.join(folders[:depth])}/__init__.py"
            )


def test_names_say_what_is_in_a_file():
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    for path in [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        assert not vague & set(path.stem.split("_")), f"{path.relative_to(ROOT)}: say what is in it"


def test_tests_live_in_the_tests_folder_under_unique_names():
    assert not [p for p in FILES if p.name.startswith("test_") or p.name == "conftest.py"]
    names = [p.name for p in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted({n for n in names if names.count(n) > 1})
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_nothing_prints_unpickles_or_loads_unsafely(path):
    """ruff says so too; here it also holds for code that carries a noqa."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        assert call != "print", f"{_id(path)}:{node.lineno} prints"
        assert call not in ("pickle.load", "pickle.loads", "joblib.load", "yaml.load", "eval", "exec"), (
            f"{_id(path)}:{node.lineno}"
        )
        if call == "torch.load":
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert keywords.get("weights_only") == "True", f"{_id(path)}:{node.lineno}"


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
        *project["optional-dependencies"]["dev"],
    ]
    names = {w.split(">=")[0].split("[")[0].lower().replace("_", "-") for w in wanted} - {"mplat"}
    lines = [
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines)
    assert names <= pinned.keys()
    assert pinned["torch"] == "2.13.0"
    assert all("+" not in version for version in pinned.values())
