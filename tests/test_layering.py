"""Imports point downward only, and each layer keeps to what it promises not to touch.

    commands -> quickstart -> report -> train | tokenise | refine | interp | eval | perplexity -> steering -> datasets
    -> models | runtime, scoring -> core;
    the stages between the bars know nothing of each other; models know neither runtime nor scoring, and runtime knows
    neither models nor data sets

The sources are read, not imported, so an import inside a function counts too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from mplat.core.collecting import uncollected

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "platform"
FILES = sorted(PACKAGE.rglob("*.py"))
STAGES = {"train", "tokenise", "refine", "interp", "eval", "perplexity"}
BELOW = {"core", "scoring", "runtime", "models", "datasets"}
PUBLIC_NAMES = {"errors", "config"}  # for users; inside the package `core` is meant
MAY_USE = {
    "core": set(),
    "scoring": {"core"},
    "runtime": {"core"},
    "models": {"core"},
    "datasets": {"core", "scoring", "runtime", "models"},
    "steering": BELOW,
    "train": BELOW,
    "tokenise": BELOW,
    "interp": BELOW | {"steering"},
    "eval": BELOW | {"steering"},
    "perplexity": BELOW,
    "refine": BELOW,
    "report": BELOW | STAGES | {"steering"},
    "quickstart": BELOW | STAGES | {"steering", "report"},
    "diagnosis": {"core", "models", "runtime"},
    "commands": BELOW | STAGES | {"steering", "report", "quickstart", "diagnosis"},
    "__main__": {"commands"},
    **{name: {"core"} for name in PUBLIC_NAMES},
}
PURE = ["models/kernels", "scoring"]  # numeric code: no files, no processes, no terminal
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


@cache
def tree_of(path: Path) -> ast.Module:
    """A file's syntax, read when it is first asked for: every process of a test run collects this file."""
    with uncollected():  # a thousand trees are very many objects and no garbage
        return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Every node of a file's syntax, from the top down."""
    with uncollected():
        return list(ast.walk(tree_of(path)))


@pytest.fixture(scope="module", autouse=True)
def _trees_are_let_go() -> Iterator[None]:
    """The tests of other files need not hold them in memory."""
    yield
    tree_of.cache_clear()
    nodes_of.cache_clear()


def _id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@cache
def _imports(path: Path) -> list[tuple[str, int]]:
    """Every imported module as an absolute name, with its line; imports for type checking only are left out."""
    return list(_found_imports(path))


def _found_imports(path: Path) -> Iterator[tuple[str, int]]:
    package = ["mplat", *path.relative_to(PACKAGE).parent.parts]
    everything = nodes_of(path)
    for_types = {
        id(inner)
        for node in everything
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in everything:
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
    return parts[1] if parts[0] == "mplat" and len(parts) > 1 else None


def _own(path: Path) -> str:
    """The part of mplat that a file belongs to."""
    unit = _unit(".".join(["mplat", *path.relative_to(PACKAGE).with_suffix("").parts]))
    assert unit is not None
    return unit


def _calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Every call in a file, with the name of what is called as it is written."""
    for node in nodes_of(path):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def _is_pure(path: Path) -> bool:
    return any(_id(path).startswith((f"{pure}/", f"{pure}.py")) for pure in PURE)


@pytest.mark.slow
def test_the_imports_are_found():
    seen = {module for path in FILES for module, _ in _imports(path)}
    assert {"mplat.core.errors", "mplat.models.kernels", "torch", "json"} <= seen


def test_imports_point_downward():
    units = {_own(path) for path in FILES}
    new = units - MAY_USE.keys()
    assert not new, f"{new}: give it a place in the layers of this test and of ARCHITECTURE.md"
    wrong = [
        f"{_id(path)}:{line}: {_own(path)} may not import {module}"
        for path in FILES
        for module, line in _imports(path)
        if (unit := _unit(module)) in units and unit not in {_own(path), *MAY_USE[_own(path)]}
    ]
    assert not wrong


def test_layers_are_layers():
    """What may be used forms no circle, and no stage may use another one."""
    for stage in STAGES:
        assert not MAY_USE[stage] & STAGES
    uses = {unit: set(below) for unit, below in MAY_USE.items()}
    while free := [unit for unit, below in uses.items() if not below & uses.keys()]:
        for unit in free:
            del uses[unit]
    assert not uses


def test_no_more_than_three_files_import_each_other_in_a_circle():
    modules = {".".join(["mplat", *path.relative_to(PACKAGE).with_suffix("").parts]): path for path in FILES}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    uses: dict[Path, set[Path]] = {}
    for path in FILES:
        named = {module for module, _ in _imports(path)} & modules.keys()
        # of `from .package import module` the package itself is named for the path alone
        meant = named - {module.rpartition(".")[0] for module in named if modules[module].stem != "__init__"}
        uses[path] = {modules[module] for module in meant} - {path}
    reach = {path: _reachable(path, uses) for path in FILES}
    circles = {frozenset(other for other in reach[path] if path in reach[other]) for path in FILES}
    assert not [sorted(map(_id, circle)) for circle in circles if len(circle) > 3]


def _reachable(start: Path, uses: dict[Path, set[Path]]) -> set[Path]:
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        new = uses[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def test_only_models_know_an_architecture():
    """What analyses, steering and reports need of one it says of itself; variants are named like it, and an analysis
    may be."""
    architectures = {
        name for folder in ("families", "adapters") for path in (PACKAGE / "models" / folder).rglob("*.py")
        for name in re.findall(r'^@(?:mixer|adapter)\("(\w+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
    }  # fmt: skip
    assert {"mamba", "zamba2"} <= architectures
    outside = [path for path in FILES if _own(path) != "models"]
    wrong = [
        f"{_id(path)}:{line}: import of {module}"
        for path in outside for module, line in _imports(path)
        if module.startswith(("mplat.models.families", "mplat.models.adapters"))
    ]  # fmt: skip
    wrong += [
        f"{_id(path)}:{node.lineno}: {node.value!r}"
        for path in outside if _own(path) in {"interp", "steering", "report"} and "variants" not in path.parts
        for node in nodes_of(path) if isinstance(node, ast.Constant) and node.value in architectures
        and node not in _names_of_steps(path)
    ]  # fmt: skip
    assert not wrong


def _names_of_steps(path: Path) -> list[ast.expr]:
    """The names under which a file registers analyses."""
    decorators = [
        decorator for node in nodes_of(path) if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list if isinstance(decorator, ast.Call)
    ]  # fmt: skip
    return [d.args[0] for d in decorators if isinstance(d.func, ast.Name) and d.func.id == "step"]


def test_only_the_runtime_imports_ray_and_only_the_command_line_imports_typer():
    owner = {"ray": "runtime", "typer": "commands", "rich": "commands", "click": "commands"}
    wrong = [
        f"{_id(path)}:{line}: import of {module}"
        for path in FILES
        for module, line in _imports(path)
        if _own(path) != owner.get(module.split(".")[0], _own(path))
    ]
    assert not wrong


@pytest.mark.slow
def test_importing_a_stage_imports_no_ray():
    """So that everything but a Ray address works where Ray is not installed."""
    stages = [
        name for name in sorted(STAGES | BELOW | {"steering", "report"}) if (PACKAGE / name / "__init__.py").exists()
    ]
    code = (
        f"import importlib, sys; sys.modules['ray'] = None; [importlib.import_module('mplat.' + n) for n in {stages}]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_numeric_code_touches_no_files():
    wrong: list[str] = []
    for path in filter(_is_pure, FILES):
        wrong += [
            f"{_id(path)}:{n}: import of {m}" for m, n in _imports(path) if m.split(".")[0] in PURE_MAY_NOT_IMPORT
        ]
        wrong += [
            f"{_id(path)}:{node.lineno}: {name}()" for node, name in _calls(path) if name.split(".")[-1] in FILE_CALLS
        ]
    assert not wrong


def test_imports_inside_the_package_are_relative():
    wrong: list[str] = []
    for path in FILES:
        for node in nodes_of(path):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong += [f"{_id(path)}: {name}" for name in names if name.split(".")[0] == "mplat"]
    assert not wrong


def test_a_file_says_what_it_is_for():
    assert not [_id(path) for path, tree in ((path, tree_of(path)) for path in FILES) if not ast.get_docstring(tree)]


def test_the_package_folder_is_no_package_and_every_folder_in_it_is():
    assert not (PACKAGE / "__init__.py").exists(), "it would hide Python's own module named platform"
    folders = {parent for path in FILES for parent in path.parents if PACKAGE in parent.parents}
    assert not [_id(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_names_say_what_is_in_a_file():
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    everything = [
        *FILES,
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
        *(ROOT / "tools").rglob("*.py"),
    ]
    assert not [path for path in everything if vague & set(path.stem.split("_"))]


def test_tests_live_in_the_tests_folder_under_unique_names():
    assert not [_id(path) for path in FILES if path.name.startswith("test_") or path.name == "conftest.py"]
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_nothing_prints_unpickles_or_runs_text():
    """ruff says so too; here it also holds for code that carries a noqa."""
    banned = {"print", "pickle.load", "pickle.loads", "joblib.load", "yaml.load", "eval", "exec"}
    wrong: list[str] = []
    for path in FILES:
        for node, name in _calls(path):
            safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            if name in banned or (name == "torch.load" and not safe):
                wrong.append(f"{_id(path)}:{node.lineno}: {name}()")
    assert not wrong


def test_every_imported_package_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    entries = [*project["dependencies"], *(e for name in ("hub", "lm-eval", "wandb", "mlflow") for e in extras[name])]
    declared = {re.split(r"[><=\[]", entry)[0].lower().replace("_", "-") for entry in entries}
    installed_by = packages_distributions()
    tops = {module.split(".")[0] for path in FILES for module, _ in _imports(path)} - {
        "mplat",
        *sys.stdlib_module_names,
    }
    undeclared = {
        top for top in tops if not declared & {name.lower().replace("_", "-") for name in installed_by.get(top, [top])}
    }
    assert not undeclared - {"mamba_ssm", "causal_conv1d", "triton"}  # the extra for CUDA; triton comes with its torch


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["lm-eval"], *extras["dev"]]
    names = {entry.split(">=")[0].split("[")[0].lower().replace("_", "-") for entry in wanted} - {"mplat"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))
    assert names <= pinned.keys()
    assert pinned["torch"] == "2.13.0"
    assert all("+" not in version for version in pinned.values())
