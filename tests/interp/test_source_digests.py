"""Code counts, comments do not, and helpers count wherever they are imported from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mplat.core.code_closure import FOLDER, source_digests
from mplat.core.errors import InputError

ATTRIBUTION = "mplat.interp.steps.attribution"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with a step, what it imports in every way there is, and what it does not."""
    files = {
        "__init__.py": "",
        "step.py": "from . import registry\nfrom .helper import twice\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from .types_only import T\nimport json, p.deep.inner\n\ndef run():\n"
        "    from .late import now\n    return twice(now())\n",
        "helper.py": '"""Doc."""\n\ndef twice(x):\n    """Doc."""\n    return 2 * x  # comment\n',
        "late.py": "def now():\n    return 1\n",
        "types_only.py": "T = int\n",
        "unused.py": "x = 1\n",
        "registry/__init__.py": "import pkgutil\nfor m in pkgutil.iter_modules(__path__): ...\n",
        "registry/plugin.py": "y = 1\n",
        "deep/__init__.py": "",
        "deep/inner.py": "from ..late import now\nfrom .. import helper\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    return source_digests(["p.step"], folder=folder, package="p")


def test_all_that_is_imported_counts_and_nothing_else(package: Path) -> None:
    assert list(digests(package)) == [
        "p.deep.inner", "p.helper", "p.late", "p.registry", "p.registry.plugin", "p.step",
    ]  # fmt: skip


def test_comments_docstrings_and_layout_do_not_count(package: Path) -> None:
    before = digests(package)
    text = '# new\n"""Other\nwords."""\ndef twice(\n    x\n):\n\n    """More."""\n    return (2 * x)\n'
    (package / "helper.py").write_text(text)
    assert digests(package) == before


@pytest.mark.parametrize("name", ["step.py", "helper.py", "late.py", "registry/plugin.py", "deep/inner.py"])
def test_code_counts(package: Path, name: str) -> None:
    before = digests(package)
    with (package / name).open("a") as file:
        file.write("\nchanged = True\n")
    after = digests(package)
    module = "p." + name.removesuffix(".py").replace("/", ".")
    assert {m for m in before if before[m] != after[m]} == {module}


@pytest.mark.parametrize("name", ["types_only.py", "unused.py"])
def test_what_is_not_imported_does_not_count(package: Path, name: str) -> None:
    before = digests(package)
    (package / name).write_text("changed = True\n")
    assert digests(package) == before


def test_a_real_step_depends_on_the_forward_pass_and_not_on_other_steps(tmp_path: Path) -> None:
    copy = tmp_path / "mplat"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "tokenizer"))
    roots = [ATTRIBUTION, "mplat.models.model"]
    before = source_digests(roots, folder=copy)
    assert before == source_digests(roots)
    expected = {
        ATTRIBUTION, "mplat.interp.methods.moments", "mplat.interp.engine.answers", "mplat.interp.methods.taps",
        "mplat.models.model",
        "mplat.models.families.mamba2.mamba2", "mplat.models.kernels.scan.scan_numba", "mplat.models.access.edits",
    }  # fmt: skip
    assert expected <= before.keys()
    kept_out = (
        "mplat.commands",
        "mplat.train",
        "mplat.interp.engine.run",
        "mplat.interp.engine.cache",
        "mplat.interp.steps.activations",
    )
    assert not [name for name in before if name.startswith(kept_out)]

    helper, other = copy / "interp" / "moments.py", copy / "interp" / "steps" / "activations.py"
    helper.write_text("# a comment\n" + helper.read_text())
    other.write_text(other.read_text() + "\nextra = 1\n")
    assert source_digests(roots, folder=copy) == before
    helper.write_text(helper.read_text().replace("d * d *", "d * d * 1.0 *"))
    after = source_digests(roots, folder=copy)
    assert [name for name in before if before[name] != after[name]] == ["mplat.interp.methods.moments"]


def test_a_step_without_a_source_file_cannot_be_keyed() -> None:
    with pytest.raises(InputError, match="put the step in a file"):
        source_digests(["typed_at_a_prompt"])
