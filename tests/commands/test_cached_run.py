"""A run of which everything is cached imports nothing that only computing needs, reads each file of the cache once to
check and once to copy it, parses no source, and leaves the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # two processes, of which one computes

#: seconds each: torch's compiler, what that computes with symbols, statistics, compiled kernels, figures, data sets
HEAVY = (
    "torch._dynamo",
    "sympy",
    "sklearn",
    "scipy",
    "numba",
    "matplotlib",
    "plotly",
    "pyarrow.dataset",
    "datasets",
    "ray",
)
WATCHED = """
import json, os, sys
opened, cache, words = [], sys.argv[1], sys.argv[2:]
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and "/part-" in os.fspath(arguments[0]):
        opened.append(os.path.relpath(arguments[0], cache))
sys.addaudithook(watch)
from mplat.commands import main
from mplat.core import code_closure
code = main(words)
print(json.dumps([code, opened, sorted(sys.modules), code_closure._parse.cache_info().misses]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, list]:
    """The cache, the folder of the run that filled it, that of the one that read it, and what that one did."""
    place = tmp_path_factory.mktemp("runs")
    words = ["interp", "--model", "tiny-mamba", "--steps", "eigenvalues,collect", "--per-level", "1",
             "--address", "none", "--quiet"]  # fmt: skip
    # both in processes of their own: this one may have read sources before
    for out in ("first", "second"):
        command = [sys.executable, "-c", WATCHED, str(place / "cache"), *words, "--out", str(place / out)]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "MPLAT_CACHE": str(place / "cache")}
        )
        assert done.returncode == 0, done.stderr
    return place / "cache", place / "first", place / "second", json.loads(done.stderr.splitlines()[-1])


def test_nothing_is_imported_that_only_computing_needs(runs: tuple[Path, Path, Path, list]) -> None:
    code, _, modules, _ = runs[3]
    assert code == 0 and {"torch", "transformers"} <= {*modules}
    assert [name for name in HEAVY if name in modules] == []


def test_no_source_is_parsed_again(runs: tuple[Path, Path, Path, list]) -> None:
    assert runs[3][3] == 0


def test_each_file_is_read_once_and_copied_once(runs: tuple[Path, Path, Path, list]) -> None:
    cache, _, _, (_, opened, _, _) = runs
    wanted = {str(path.relative_to(cache)) for path in cache.glob("*/*/part-*")}
    assert len(wanted) >= 5 and {name: opened.count(name) for name in wanted} == dict.fromkeys(wanted, 2)


def test_its_results_have_the_same_bytes(runs: tuple[Path, Path, Path, list]) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}

    first = content(runs[1])
    assert len(first) > 5 and content(runs[2]) == first
    records = [json.loads((folder / "run.json").read_text()) for folder in runs[1:3]]
    assert records[0]["files"].keys() == first.keys() and records[0] == records[1]
