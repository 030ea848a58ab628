"""Code counts, comments do not, and helpers count wherever they are imported from."""

from __future__ import annotations

from pathlib import Path

import pytest
from mplat.core.code_closure import source_digests
from mplat.core.errors import InputError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with a step, what it imports in every way there is, and what it does not."""
    files = {
        "__init__.py": "",
        "step.py": "from .passing import shared as s\nfrom .helper import twice\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from .types_only import T\nimport json, p.deep.inner\n\ndef run():\n"
        "    from .late import now\n    return twice(now())\n",
        "helper.py": '"""Doc."""\n\ndef twice(x):\n    """Doc."""\n    return 2 * x  # comment\n',
        "late.py": "def now():\n    return 1\n",
        "types_only.py": "T = int\n",
        "unused.py": "x = 1\n",
        "passing/__init__.py": "from .made import made as shared\nfrom .other import other\n",
        "passing/made.py": "def made():\n    return 1\n",
        "passing/other.py": "def other():\n    return 1\n",
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
        "p.deep.inner", "p.helper", "p.late", "p.passing.made", "p.step",
    ]  # fmt: skip


def test_comments_docstrings_and_layout_do_not_count(package: Path) -> None:
    before = digests(package)
    text = '# new\n"""Other\nwords."""\ndef twice(\n    x\n):\n\n    """More."""\n    return (2 * x)\n'
    (package / "helper.py").write_text(text)
    assert digests(package) == before


@pytest.mark.parametrize("name", ["step.py", "helper.py", "late.py", "passing/made.py", "deep/inner.py"])
def test_code_counts(package: Path, name: str) -> None:
    before = digests(package)
    with (package / name).open("a") as file:
        file.write("\nchanged = True\n")
    after = digests(package)
    module = "p." + name.removesuffix(".py").replace("/", ".")
    assert {m for m in before if before[m] != after[m]} == {module}


@pytest.mark.parametrize("name", ["types_only.py", "unused.py", "passing/other.py", "passing/__init__.py"])
def test_what_is_not_imported_does_not_count(package: Path, name: str) -> None:
    before = digests(package)
    (package / name).write_text((package / name).read_text() + "changed = True\n")
    assert digests(package) == before


def test_a_step_without_a_source_file_cannot_be_keyed() -> None:
    with pytest.raises(InputError, match="put the step in a file"):
        source_digests(["typed_at_a_prompt"])
