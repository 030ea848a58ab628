"""`mplat classify`: sort the questions of data sets into seven categories and draw a balanced sample of them.

Without `--out` nothing is written; the tables are shown. With it the questions are one Parquet file, and the summary
lies beside it as JSON. The files are the same, byte for byte, for the same data and arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .options import DryRun, Json, Quiet, Seed, Verbose, as_path, writable_folder
from .output import Output, table
from .registry import command
from .values import parse_names


@command("classify", order=24)
def classify(
    datasets: Annotated[
        str, typer.Option("--datasets", metavar="A,B|all", help="Data sets, such as squad,hotpotqa,triviaqa.")
    ] = "squad,hotpotqa,triviaqa",
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            parser=as_path,
            help="Folder of the data files, searched by content; or one file.",
        ),
    ] = Path("data"),
    per_dataset: Annotated[
        int, typer.Option("--per-dataset", metavar="N", help="At most N questions of a data set; 0: all.")
    ] = 500,
    per_category: Annotated[
        int, typer.Option("--per-category", metavar="N", help="At most N questions of a category; 0: all.")
    ] = 100,
    rule_set: Annotated[
        str, typer.Option("--rule-set", help="evidence: real sentences and marked evidence; source: lengths and words.")
    ] = "evidence",
    fail_over: Annotated[
        float, typer.Option("--fail-over", metavar="SHARE", help="Share of bad records that is tolerated.")
    ] = 0.01,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.parquet", parser=as_path, help="File for the questions; none: tables only."
        ),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    dry_run: DryRun = False,
) -> None:
    """Sort questions into categories by their evidence, each with the reason, and draw a balanced sample."""
    from ..datasets import registry
    from ..datasets.classify import classify_folder, summary_path, write

    output = Output(json=as_json, quiet=quiet, verbose=verbose)
    names = parse_names(datasets, registry.names(), option="--datasets")
    if out is not None:
        if out.suffix != ".parquet":
            raise UsageError(f"--out {out}: the questions are a Parquet file; give a name that ends in .parquet")
        if out.is_dir():
            raise UsageError(f"--out {out}: is a folder; give the name of a file")
        if not dry_run:
            writable_folder(out.parent)
    result = classify_folder(
        names,
        data_dir,
        rule_set=rule_set,
        per_dataset=per_dataset,
        per_category=per_category,
        seed=seed,
        fail_over=fail_over,
    )
    written = out if out is not None and not dry_run else None
    summary = write(result, written) if written is not None else result.summary
    for name, account in summary["datasets"].items():
        for note in account["left_out"]:
            output.say(f"{name}: left out: {note}")
        for note, count in account["notes"].items():
            output.say(f"{name}: {note}: {count}")
        if account["bad"]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in account["bad"].items())
            output.warn(f"{name}: {sum(account['bad'].values())} of {account['records']} records left out: {reasons}")
    text = "\n".join([*_tables(summary), _last_line(summary, written, summary_path(written) if written else None)])
    output.result({**summary, "out": None if written is None else str(written)}, text)


def _tables(summary: dict[str, Any]) -> list[str]:
    data_sets = summary["datasets"]
    rows = [
        [category, entry["level"]]
        + [account["categories"].get(category, 0) for account in data_sets.values()]
        + [entry["ambiguous"], entry["taken"]]
        for category, entry in summary["categories"].items()
    ]
    rows.append(
        ["all", None]
        + [account["questions"] for account in data_sets.values()]
        + [sum(entry[key] for entry in summary["categories"].values()) for key in ("ambiguous", "taken")]
    )
    lines = [f"rule set {summary['rule_set']}, seed {summary['seed']}: questions by data set, and the sample"]
    lines += ["", table(["category", "level", *data_sets, "ambiguous", "taken"], rows)]
    if summary["shortfalls"]:
        short = [[s["category"], s["wanted"], s["taken"], s["why"]] for s in summary["shortfalls"]]
        lines += ["", table(["short of", "wanted", "taken", "why"], short)]
    return [*lines, ""]


def _last_line(summary: dict[str, Any], out: Path | None, beside: Path | None) -> str:
    if out is None:
        return f"{summary['questions']} questions; --out FILE.parquet keeps them"
    return f"{summary['questions']} questions in {out}, summary in {beside}"
