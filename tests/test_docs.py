"""The examples in the documents run, and what the documents name exists."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mplat.commands import build_app, main
from mplat.commands.frame import command as registry
from mplat.core import errors
from mplat.models.files.catalog import shipped

ROOT = Path(__file__).resolve().parent.parent
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", *PAGES]


def _text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def _blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", _text(document), re.S)


def _load(block: str, name: str, tmp_path: Path):
    """An example as the module `name`, so that its relative imports mean what they mean in the package."""
    path = tmp_path / f"{name.rpartition('.')[2]}.py"
    path.write_text(block, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_example_runs(tmp_path):
    (block,) = _blocks("README.md")
    assert block.count("\n") <= 15
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "blocks.0.mixer.delta" in done.stdout
    promised = re.findall(r"# (\[' \w+'\])", block)
    assert len(set(promised)) == 2 and done.stdout.splitlines()[-2:] == promised


@pytest.mark.parametrize("document", [
    "docs/sites-and-edits.md", "docs/steering.md", "docs/operators.md", "docs/price-and-dose.md",
])  # fmt: skip
@pytest.mark.slow
def test_a_pages_examples_run_one_after_the_other_and_print_what_stands_beside_them(
    document, tmp_path, monkeypatch, capsys
):
    script = "\n".join(_blocks(document))
    promised = re.findall(r"^\s*print\(.*\)  # (.*)$", script, re.M)
    assert len(promised) == len(re.findall(r"^\s*print\(", script, re.M)) > 4
    monkeypatch.chdir(tmp_path)
    exec(compile(script, document, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines() == promised


@pytest.mark.parametrize("document", [p for p in PAGES if p.startswith("docs/design/") or p == "docs/ssd.md"])
def test_a_design_notes_examples_run_and_a_note_names_its_tests(document, tmp_path):
    assert re.search(r"\btests/[\w/-]+\.py\b", _text(document)), f"{document} names no test"
    places = re.findall(r"`(platform/[\w/.]+)`", _text(document))
    assert [place for place in places if not (ROOT / place).exists()] == []
    script = "\n".join(_blocks(document))
    promised = re.findall(r"^\s*print\(.*\)  # (.*)$", script, re.M)
    assert len(promised) == len(re.findall(r"^\s*print\(", script, re.M)) >= bool(script)
    if script:
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == promised


def test_the_page_of_sites_names_those_of_every_architecture():
    from model_zoo import ARCHITECTURES, nano

    named = set(re.findall(r"`(?:[\w.]+\.)?(\w+)`", _text("docs/sites-and-edits.md").partition("## Selecting")[0]))
    families = ("gate_", "ssm_", "x", "filter", "long_conv_in", "long_conv_out")  # named by their first members
    for arch in ARCHITECTURES:
        leaves = {site.name.rpartition(".")[2] for site in nano(arch).sites()}
        assert {leaf for leaf in leaves - named if not leaf.startswith(families)} == set(), arch


def test_the_page_of_steering_names_every_verdict_control_and_position():
    from typing import get_args

    from mplat.eval.eval_config import all_controls
    from mplat.eval.verdict import Kind
    from mplat.steering.layout import POSITIONS

    said = set(re.findall(r"^\| `(\w+)` \|", _text("docs/steering.md"), re.M))
    assert said == {*get_args(Kind), *all_controls(), *POSITIONS} - {"not_steered"}


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "docs/listing.md"])  # that is written
def test_commands_and_options_that_documents_show_exist(document, capfd):
    build_app()
    in_blocks = "\n".join(re.findall(r"```sh\n(.*?)```", _text(document), re.S))
    shown = re.findall(r"^mplat ([^\n#]+)", in_blocks, re.M) + re.findall(r"`mplat ([^`]+)`", _text(document))
    for line in shown:
        words = line.split()
        if words[0] in ("COMMAND", "--help", "count", "--version"):
            continue
        name = " ".join(words[:2]) if " ".join(words[:2]) in registry.COMMANDS.names() else words[0]
        assert name in registry.COMMANDS.names(), f"{document}: mplat {line}"
        assert main([*name.split(), "--help"]) == 0
        known = capfd.readouterr().out
        for option in (w.split("=")[0] for w in words if w.startswith("--")):
            assert re.search(rf"{option}\b", known), f"{document}: {name} has no {option}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_documents_point_to_exist(document):
    base = (ROOT / document).parent
    for target in re.findall(r"\]\(([^)#:]+)\)", _text(document)):
        assert (base / target).exists(), f"{document} points to {target}"
    for target in re.findall(r"\b(?:tests|configs)/[\w/-]+\.(?:py|yaml)\b", _text(document)):
        if target != "configs/a.yaml":  # the example file of the error texts
            assert (ROOT / target).exists(), f"{document} names {target}"


def test_the_page_of_categories_has_the_numbers_of_its_benchmark(tmp_path):
    script = _load((ROOT / "benchmarks/classify.py").read_text(), "classify_benchmark", tmp_path)
    written = script.tables(json.loads(_text("benchmarks/results/classify.json")))
    assert f"{script.BEGIN}{written}{script.END}" in _text("docs/categories.md")


def test_every_exit_code_is_explained():
    documented = {int(code) for code in re.findall(r"^\*\*(\d+):", _text("docs/errors.md"), re.M)}
    used = {
        cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.MplatError)
    }
    assert documented == used | {0, 130}


def test_the_architecture_names_every_part():
    text = _text("ARCHITECTURE.md")
    parts = [p for p in (ROOT / "platform").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()]
    unnamed = [p.name for p in parts if f"`{p.name}{'' if p.suffix else '/'}`" not in text and p.name != "__main__.py"]
    assert not unnamed


def test_the_options_that_the_readme_says_are_shared_exist(root):
    from mplat.commands import build_app
    from typer.main import get_command

    commands = get_command(build_app()).commands  # type: ignore[attr-defined]
    has = {name: {o for p in entry.params for o in p.opts} for name, entry in commands.items()}
    (said,) = re.findall(r"`quickstart`, `train`.*?\n\n", (root / "README.md").read_text(), re.S)
    shared = set(re.findall(r"`(--?[a-z-]+)", said.partition(";")[0])) - {"-q", "-v"}
    assert len(shared) == 8 and "--address" in shared
    for name in ("quickstart", "train", "interp", "eval"):
        assert shared | {"-q", "-v"} <= has[name], name
    assert all("--json" in options for options in has.values())


def test_the_readmes_table_of_models_is_what_was_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "tiny_models.json").read_text())["rows"]
    shown = {line.split("`")[1]: line for line in _text("README.md").splitlines() if line.startswith("| `tiny-")}
    assert sorted(shown) == sorted(row["what"] for row in measured) == sorted(shipped())
    for row in measured:
        levels = " / ".join(f"{row['exact_match'][level]:.2f}" for level in "123456")
        numbers = [f"{row[key]:,.0f}" for key in ("parameters", "active_parameters", "state_bytes")]
        speeds = [f"{row[f'{key}_tokens_per_second']:,.0f}" for key in ("read", "generated")]
        assert [cell.strip() for cell in shown[row["what"]].strip("|").split("|")[1:]] == [*numbers, *speeds, levels]


@pytest.mark.slow
def test_the_page_of_everything_registered_is_what_the_registries_say(tmp_path):
    made = tmp_path / "listing.md"
    subprocess.run([sys.executable, ROOT / "tools" / "listing.py", made], check=True)
    assert made.read_text(encoding="utf-8") == _text("docs/listing.md"), "write it again: python tools/listing.py"


def test_the_page_of_the_tests_names_what_is_shared():
    named = set(re.findall(r"^\| `(\w+)` \|", _text("tests/README.md"), re.M))
    modules = {path.stem for folder in ("support", "real_configs") for path in (ROOT / "tests" / folder).glob("*.py")}
    fixtures = re.findall(r"^def ([a-z]\w*)\(", _text("tests/conftest.py"), re.M)
    assert named == {name for name in {*modules, *fixtures} if not name.startswith(("test_", "pytest_"))}
