"""Code counts, comments do not, and helpers count wherever they are imported from."""

from __future__ import annotations

from pathlib import Path

import pytest
from mplat.core import code_closure
from mplat.core.code_closure import Sources, source_digests
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
def test_f26_code_counts(package: Path, name: str) -> None:
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


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MPLAT_CACHE", str(folder))
    return folder


def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The sources that are parsed from now on."""
    sources: list[bytes] = []

    def parse(source: bytes) -> code_closure.Parsed:
        sources.append(source)
        return original.__wrapped__(source)

    original = code_closure._parse
    monkeypatch.setattr(code_closure, "_parse", parse)
    return sources


def test_a_process_parses_each_file_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = parsed(monkeypatch)
    known = Sources(package, "p")
    whole = known.digests(["p.step"])
    assert known.digests(["p.deep.inner"]).items() < whole.items()
    assert len(sources) == len(set(sources)) == 7, "five modules, two packages that may pass names on"


def test_a_later_process_parses_only_what_has_changed(
    package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = parsed(monkeypatch)
    before = Sources(package, "p", keep=True).digests(["p.step"])
    assert before == digests(package)
    sources.clear()
    assert Sources(package, "p", keep=True).digests(["p.step"]) == before and sources == []
    (package / "late.py").write_text("def now():\n    return 2\n")
    after = Sources(package, "p", keep=True).digests(["p.step"])
    assert sources == [b"def now():\n    return 2\n"] and after == digests(package) != before


def test_a_damaged_line_of_what_is_kept_counts_as_none(package: Path, cache: Path) -> None:
    before = Sources(package, "p", keep=True).digests(["p.step"])
    (path,) = (cache / ".sources").iterdir()
    digest = before["p.helper"]
    path.write_text(path.read_text().replace(digest, digest[::-1]) + "half a li")
    assert Sources(package, "p", keep=True).digests(["p.step"]) == before


def test_what_cannot_be_kept_is_parsed_again(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "taken"))
    assert Sources(package, "p", keep=True).digests(["p.step"]) == digests(package)
