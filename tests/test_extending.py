"""The examples of docs/extending.md, each pasted as the one file it is into a copy of the checkout, are what they are
said to be: they pass the contracts of their kind and show wherever the others of it show.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
COPIED = ("platform", "front", "tests", "tools", "docs", "configs", "cli.py", "pyproject.toml", "README.md")
#: new file -> its content: of the files that a text names, the one that is not there belongs to the block below it
BLOCKS = {
    path: block
    for text, block in re.findall(r"(.*?)```python\n(.*?)```\n", GUIDE, re.S)
    for path in re.findall(r"`(platform/\S+\.py)`", text)
    if not (ROOT / path).exists()
}
#: file -> the name that it registers
EXAMPLES = {
    path: re.search(r'^@\w+\((?:"\w+", )?"(\w+)"', block, re.M)[1]  # type: ignore[index]
    for path, block in BLOCKS.items()
}
KINDS = {"count", "first_word", "qa_lines", "triples", "entropy", "perplexity", "scale_read", "weaker", "agreement",
         "late", "leaky", "unfold"}  # fmt: skip


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout with all examples, each in a file that was not there."""
    folder = tmp_path_factory.mktemp("clone") / "mplat"
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name)  # with what is compiled already
        else:
            shutil.copy(source, folder / name)
    for path, block in BLOCKS.items():
        (folder / path).write_text(block, encoding="utf-8")
    return folder


def run(clone: Path, *arguments: str, timeout: int = 110) -> str:
    """Python in the copy, which is the only mplat in its reach; stdout."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    path = os.pathsep.join(str(clone / name) for name in ("front", "tests/support"))
    done = subprocess.run(
        [sys.executable, *arguments], cwd=clone, env={**outside, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def commands(clone: Path, *lines: str, before: str = "") -> list[str]:
    """What each of several commands of the copy prints, in one process, which starts with a script."""
    return json.loads(run(clone, "-c", before + MANY, *lines).splitlines()[-1])


#: runs the command lines that it is given
MANY = """
import contextlib, io, json, shlex, sys
from mplat.commands import main

said = []
for line in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main(shlex.split(line)) == 0, line
    said.append(shown.getvalue())
print(json.dumps(said))
"""


def test_there_is_a_short_example_of_every_kind() -> None:
    assert set(EXAMPLES.values()) == KINDS and len(EXAMPLES) == 13 and len(BLOCKS) == GUIDE.count("```python")
    assert {path: block.count("\n") for path, block in BLOCKS.items() if block.count("\n") > 45} == {}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_passes_the_contracts_of_its_kind(clone: Path) -> None:
    names = [f"{before}{name}{after}" for name in EXAMPLES.values() for before in "[-" for after in "]-"]
    said = run(
        clone, "-m", "pytest", "tests/contracts", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA",
        "-k", " or ".join([*names, "test_no_other_data_set_takes_its_files"]), timeout=280,
    )  # fmt: skip
    passed = re.findall(r"^PASSED \S+?\[(.*)\]", said, re.M)
    for name in EXAMPLES.values():
        assert any(name in case.split("-") for case in passed), f"no contract asks for {name}"


@pytest.mark.slow
def test_they_stand_in_the_help_the_analyses_and_the_page_of_everything(clone: Path) -> None:
    (clone / "words.txt").write_text("one two\nthree\n")
    shown, listed, counted = commands(clone, "--help", "interp ls", "count words.txt --json")
    assert re.search(r"^\s+count\s", shown, re.M)
    assert "entropy" in listed
    assert json.loads(counted)["words"] == 3
    run(clone, "tools/listing.py", "listing.md")
    listing = (clone / "listing.md").read_text(encoding="utf-8")
    for path, name in EXAMPLES.items():
        assert re.search(rf"^\| `(\w+, )?{name}` \|.*\| `{path}` \|$", listing, re.M), path


@pytest.mark.slow
def test_a_new_analysis_and_a_new_section_are_in_the_report(clone: Path) -> None:
    (block,) = (block for path, block in BLOCKS.items() if path.endswith("/entropy.py"))
    without = block.replace('@step("entropy", version=1, view=VIEW)', '@step("no_view")')
    assert without != block
    (clone / "platform" / "interp" / "steps" / "no_view.py").write_text(without)
    commands(
        clone,
        "interp --model tiny-mamba --per-level 1 --steps entropy,no_view --out runs/i -q --address none",
        "report runs/i runs/p --out report.html -q",
        before=OF_PERPLEXITY,
    )
    page = (clone / "report.html").read_text(encoding="utf-8")
    assert "How unsure the model is" in page, "by its view"
    assert "no_view" in page and "question_id" in page, "without one it is a table"
    assert "<h2>nano: perplexity</h2>" in page and "Bits per byte" in page and "1.25" in page, "by a new section"


#: writes the folder of a run that no section of the package shows
OF_PERPLEXITY = """
import json
from pathlib import Path
from report_runs import record

Path("runs/p").mkdir(parents=True)
Path("runs/p/run.json").write_text(json.dumps(record("perplexity", "nano")))
sets = [{"set": "Wikipedia (en)", "bits_per_byte": {"value": 1.25, "low": None, "high": None}}]
Path("runs/p/summary.json").write_text(json.dumps({"sets": sets}))
"""


@pytest.mark.slow
def test_a_new_architecture_can_be_analysed_and_steered_with_all_that_is_new(clone: Path) -> None:
    (said,) = commands(clone, "eval --model model --steering leaky --per-level 4 --dry-run --json", before=SCRIPT)
    plan = json.loads(said)["plan"]
    assert "blocks.0.mixer_out" in plan["search"]["places"] and plan["controls"]["weaker"]


#: saves a model of the new architecture, and holds the new analysis of another against its definition
SCRIPT = """
import torch
from interp_jobs import reader, run_step, token_items
from model_zoo import nano

reader("leaky").save("model")
model, items = nano("leaky"), token_items(5)
(table,) = run_step("entropy", model, items).values()
assert table["question_id"].to_pylist() == [item.id for item in items]
for item, entropy in zip(items, table["entropy"].to_pylist(), strict=True):
    p = model(torch.tensor([item.prompt]))[0, -1].softmax(-1)
    assert abs(entropy + float((p * p.log()).sum())) < 1e-9
"""
