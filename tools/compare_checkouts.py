"""Whether two checkouts give the same results: runs the commands in both, in one process and on workers, and compares.

Usage: python tools/compare_checkouts.py BEFORE AFTER [--commands eval,trace] [--address none,workers] [--work DIR]

For a change that must not change results. Commands are started as `python CHECKOUT/cli.py ...` with this interpreter,
one thread each, a fresh cache for every folder, and no other mplat in reach; what is run is in checkout_runs.py. Files
of results are compared as result_files.py says: equal byte for byte, or but for their content keys. What one process
writes must also be what two workers write, keys included. run.json is not compared, pages and pictures are not judged.

Exit code: 0 no difference, 1 a difference or a run that failed, 2 usage. Both checkouts run at the same time; all
commands take about ten minutes on two cores. It imports nothing of mplat, so it works whatever the checkouts look like.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from checkout_runs import COMMANDS, IN_PROCESS, INPUTS, ON_WORKERS, Place, Subject, argument_lists, write_inputs
from result_files import Allowed, Verdict, compare_folders

ROOT = Path(__file__).resolve().parents[1]
ADDRESSES = {"none": IN_PROCESS, "workers": ON_WORKERS}
LONGEST_RUN_SECONDS = 900
INTERP = "interp"  # compared by the steps that the checkout before has


class Row(NamedTuple):
    """A line of the report."""

    command: str
    address: str
    file: str
    verdict: Verdict


class Checkout(NamedTuple):
    """One of the two sides."""

    side: str
    path: Path
    environment: dict[str, str]


class UsageError(Exception):
    """What was typed cannot be done."""


def main(words: Sequence[str] | None = None) -> int:
    """Compare, print the report and return the exit code."""
    options = _options(words)
    begun = time.monotonic()
    work = options.work or Path(tempfile.mkdtemp(prefix="compare-checkouts-"))
    comparisons = differences = 0
    try:
        for rows in compare_checkouts(options, work):
            comparisons += len(rows)
            differences += sum(not row.verdict.same for row in rows)
            sys.stdout.write(report(rows) + "\n")
            sys.stdout.flush()
    except UsageError as error:
        _say(f"error: {error}")
        return 2
    sys.stdout.write(f"{comparisons} comparisons, {differences} differences, {time.monotonic() - begun:.0f} s\n")
    if differences or options.work:
        _say(f"the results are in {work}")
    else:
        shutil.rmtree(work)
    return 1 if differences else 0


def compare_checkouts(options: argparse.Namespace, work: Path) -> Iterator[list[Row]]:
    """Run each command at every place in both checkouts, its results below `work`, and compare."""
    if work.is_dir() and any(work.iterdir()):
        raise UsageError(f"{work}: is not empty; name a new folder, or none")
    checkouts = [_checkout(side, path) for side, path in (("before", options.before), ("after", options.after))]
    steps = _steps(checkouts[0]) if INTERP in options.commands else ()
    real_data = _real_data()
    subject = Subject(steps, real_data is not None)
    allowed = Allowed(renamed=options.renamed, dropped_columns=options.drop_columns)
    for command in options.commands:
        rows: list[Row] = []
        written: dict[str, list[Path]] = {}
        for place in options.address:
            runs = argument_lists(command, subject, place)
            if not runs:
                continue
            folders = [work / checkout.side / place.name.replace(" ", "_") / command for checkout in checkouts]
            begun = time.monotonic()
            with ThreadPoolExecutor(len(checkouts)) as both:
                failures = list(both.map(_run_all, checkouts, folders, repeat(runs), repeat(real_data)))
            _say(f"{command}, {place.name}: {len(runs)} runs in both, {time.monotonic() - begun:.0f} s")
            for checkout, failed in zip(checkouts, failures, strict=True):
                rows += [Row(command, place.name, f"({checkout.side})", Verdict(False, words)) for words in failed]
            rows += _compared(command, place.name, folders[0], folders[1], allowed)
            written[place.name] = folders
        if len(written) > 1:
            for i, checkout in enumerate(checkouts):
                one, many = (folders[i] for folders in written.values())
                within = f"{' = '.join(written)}, {checkout.side}"
                rows += _compared(command, within, one, many, Allowed(keys=False))
        yield rows


def report(rows: Sequence[Row]) -> str:
    """The rows as a plain table, differences marked."""
    head = ("", "command", "address", "file", "rows", "verdict")
    lines = [head] + [
        (
            " " if verdict.same else "!",
            command,
            address,
            file,
            "" if verdict.rows is None else str(verdict.rows),
            verdict.words,
        )
        for command, address, file, verdict in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def _compared(command: str, address: str, before: Path, after: Path, allowed: Allowed) -> list[Row]:
    return [Row(command, address, file, verdict) for file, verdict in compare_folders(before, after, allowed, INPUTS)]


def _checkout(side: str, path: Path) -> Checkout:
    """A checkout whose own code is what its commands import."""
    path = path.resolve()
    if not (path / "cli.py").is_file():
        raise UsageError(f"{path}: is no checkout, there is no cli.py")
    passed = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST_", "MPLAT_", "RAY_"))}
    environment = passed | {
        "PYTHONPATH": str(path / "front"),  # before what may be installed, in workers too
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    show = [sys.executable, "-c", "import mplat; print(*mplat.__path__)"]
    done = subprocess.run(show, env=environment, cwd=path / "front", capture_output=True, text=True)
    if done.returncode or not Path(done.stdout.strip()).is_relative_to(path):
        imported = done.stdout.strip() or done.stderr.strip()
        raise UsageError(f"{path}: with its front/ on the path, `import mplat` is not this checkout: {imported}")
    return Checkout(side, path, environment)


def _steps(checkout: Checkout) -> tuple[str, ...]:
    """The analyses that a checkout has."""
    words = [sys.executable, str(checkout.path / "cli.py"), INTERP, "ls", "--json"]
    done = subprocess.run(words, env=checkout.environment, cwd=checkout.path, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{checkout.path}: its analyses cannot be listed: {_last_line(done.stderr)}")
    return tuple(step["step"] for step in json.loads(done.stdout)["steps"])


def _real_data() -> Path | None:
    folder = Path(os.environ.get("MPLAT_SHARED_DATA", ROOT.parent / "shared" / "data")).resolve()
    return folder if folder.is_dir() else None


def _run_all(checkout: Checkout, folder: Path, runs: list[list[str]], real_data: Path | None) -> list[str]:
    """Start the runs of a command one after another in `folder`; in words, those that failed."""
    write_inputs(folder, real_data)
    cache = folder / ".cache"  # of its own: what another place has cached would be read instead of computed
    failed: list[str] = []
    for i, words in enumerate(runs):
        argv = [sys.executable, str(checkout.path / "cli.py"), *words]
        with (folder / f".{i}-{words[0]}.log").open("w") as log:
            try:
                code = subprocess.run(
                    argv,
                    env=checkout.environment | {"MPLAT_CACHE": str(cache)},
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=LONGEST_RUN_SECONDS,
                ).returncode
            except subprocess.TimeoutExpired:
                code = f"none after {LONGEST_RUN_SECONDS} s"
        if code:
            failed.append(f"{Path(log.name).name}: exit {code}: {_last_line(Path(log.name).read_text())}")
    return failed


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing was said"])[-1]


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="BEFORE", help="a checkout")
    parser.add_argument("after", type=Path, metavar="AFTER", help="another one, or the same")
    parser.add_argument(
        "--commands", type=_commands, default=list(COMMANDS), metavar="A,B", help=f"of {', '.join(COMMANDS)}"
    )
    parser.add_argument(
        "--address", type=_places, default=list(ADDRESSES.values()), metavar="none,workers", help="default: both"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the results here")
    parser.add_argument(
        "--renamed",
        type=_renamed,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="a file that has another name after, as in own/traces.parquet=own/effects.parquet; may be repeated",
    )
    parser.add_argument(
        "--drop-columns",
        type=_dropped,
        action="append",
        default=[],
        metavar="FILE:A,B",
        help="columns that are not compared, of the files of a pattern, as in '*/items.parquet:group'; may be repeated",
    )
    options = parser.parse_args(words)
    options.renamed, options.drop_columns = dict(options.renamed), dict(options.drop_columns)
    return options


def _commands(text: str) -> list[str]:
    return _chosen(text, {name: name for name in COMMANDS})


def _places(text: str) -> list[Place]:
    return _chosen(text, ADDRESSES)


def _chosen(text: str, known: Mapping[str, Any]) -> list[Any]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return [value for name, value in known.items() if name in names]


def _renamed(text: str) -> tuple[str, str]:
    old, sign, new = text.partition("=")
    if not (old and sign and new):
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW")
    return old, new


def _dropped(text: str) -> tuple[str, tuple[str, ...]]:
    pattern, sign, columns = text.rpartition(":")
    if not (pattern and sign and columns):
        raise argparse.ArgumentTypeError(f"{text!r} is not FILE:COLUMN,COLUMN")
    return pattern, tuple(columns.split(","))


if __name__ == "__main__":
    sys.exit(main())
