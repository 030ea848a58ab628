"""Classification of real records: how the questions of each data set fall into categories, and how long it takes.

Usage: python benchmarks/classify.py --data-dir DIR [--repeats 3] [--actors 1,2]

Writes benchmarks/results/classify.json and the table of docs/categories.md. The table is the same on every machine; the
seconds are wall clock, of finding and reading all files, and of judging all questions in this process and on a private
Ray with each number of workers (started before). Every way must give the same rows, or the script stops.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from mplat.datasets.classify.classifying import Classification, Gathered, classify_gathered, gather
from mplat.datasets.data_set import names
from mplat.datasets.records import CATEGORIES, LEVEL_OF_CATEGORY
from mplat.runtime import Session, open_session

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "classify.json"
PAGE = ROOT / "docs" / "categories.md"
BEGIN, END = "<!-- written by benchmarks/classify.py -->\n", "<!-- end of what is written -->\n"
RULE_SETS = ("evidence", "source")


def main() -> None:
    options = _options()
    begun = time.perf_counter()
    gathered = gather(names(), options.data_dir)
    seconds: dict[str, float] = {"find and read": time.perf_counter() - begun}
    with open_session("none") as session:
        results = {rule_set: judge(gathered, rule_set, session) for rule_set in RULE_SETS}
        seconds["judge, in this process"] = timed(gathered, session, results["evidence"], options.repeats)
    actors = [int(word) for word in options.actors.split(",") if word]
    if actors:
        with open_session("local", actors=max(actors)) as session:
            for count in actors:
                took = timed(gathered, session.using(actors=count), results["evidence"], options.repeats)
                seconds[f"judge, Ray with {count} worker{'s' * (count > 1)}"] = took
    result = {
        "about": {"machine": platform.machine(), "python": platform.python_version(), "repeats": options.repeats},
        "questions": len(gathered.questions),
        "shards": len(gathered.items),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "rule_sets": {name: distribution(found) for name, found in results.items()},
    }
    RESULT.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + tables(result) + END + rest.partition(END)[2])
    sys.stdout.write(tables(result) + json.dumps(result["seconds"], indent=2) + "\n")


def judge(gathered: Gathered, rule_set: str, session: Session) -> Classification:
    """Every question under a rule set, none left out."""
    return classify_gathered(gathered, rule_set=rule_set, per_dataset=0, per_category=0, session=session)


def timed(gathered: Gathered, session: Session, expected: Classification, repeats: int) -> float:
    """Median seconds of judging; the rows must be those of `expected`."""
    turns = []
    for _ in range(repeats):
        begun = time.perf_counter()
        found = judge(gathered, "evidence", session)
        turns.append(time.perf_counter() - begun)
        if found != expected:
            raise SystemExit(f"other rows in session {session.describe()}")
    return statistics.median(turns)


def distribution(found: Classification) -> dict[str, Any]:
    """What of the summary is about the data, by data set."""
    kept = ("title", "questions", "categories", "ambiguous", "context_tokens", "evidence_tokens")
    return {name: {key: account[key] for key in kept} for name, account in found.summary["datasets"].items()}


def tables(result: dict[str, Any]) -> str:
    """The tables of docs/categories.md."""
    parts = []
    for rule_set in RULE_SETS:
        accounts = result["rule_sets"][rule_set]
        parts.append(f"\nBy the rule set `{rule_set}`:\n\n")
        head = ["category", "level", *(account["title"] for account in accounts.values())]
        rows = [
            [category, LEVEL_OF_CATEGORY[category] or "-"]
            + [f"{account['categories'].get(category, 0):,}" for account in accounts.values()]
            for category in CATEGORIES
        ]
        rows.append(["all", ""] + [f"{account['questions']:,}" for account in accounts.values()])
        rows.append(["ambiguous, by kind", ""] + [_kinds(account["ambiguous"]) for account in accounts.values()])
        parts.append(_markdown(head, rows))
    accounts = result["rule_sets"]["evidence"]
    parts.append("\nTokens of the shipped tokenizer (least, median, most):\n\n")
    parts.append(
        _markdown(
            ["data set", "context", "from evidence to question"],
            [
                [account["title"], _three(account["context_tokens"]), _three(account["evidence_tokens"])]
                for account in accounts.values()
            ],
        )
    )
    return "".join(parts) + "\n"


def _markdown(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def _kinds(kinds: dict[str, int]) -> str:
    return "<br>".join(f"{kind} {count:,}" for kind, count in kinds.items()) or "-"


def _three(spread: dict[str, int] | None) -> str:
    return "-" if spread is None else ", ".join(f"{spread[key]:,}" for key in ("min", "median", "max"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the records of all data sets")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way")
    parser.add_argument("--actors", default="1,2", help="numbers of Ray workers, or nothing for none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
