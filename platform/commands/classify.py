"""`mplat classify`: sort the questions of data sets into seven categories and draw a balanced sample of them.

Without `--out` nothing is written; the tables are shown. With it the questions are one Parquet file, and the summary
lies beside it as JSON. The files are the same, byte for byte, for the same data and arguments, wherever the questions
are judged. With `--address auto` and no RAY_ADDRESS, Ray is not started for a few shards, which take less time than it.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import UsageError
from ..core.plain_text import Table
from ..core.typed_lists import parse_names
from .frame.command import command
from .frame.folders import writable_folder
from .frame.options import Actors, Address, DryRun, Json, Quiet, Seed, Verbose, as_path
from .frame.output import Output

FEW_SHARDS = 8
HUB_DATASETS = "squad,hotpotqa,triviaqa"  # read from the hub where none is named


@command("classify", order=24)
def classify(
    datasets: Annotated[
        str | None,
        typer.Option(
            "--datasets",
            metavar="A,B|all",
            help="Data sets that must be there, such as squad,hotpotqa; default: those that are, of --hub three.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            parser=as_path,
            help="Folder of the data files, searched by content; or one file. Default: data.",
        ),
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option(
            "--hub",
            metavar="dev,train|all",
            help="In place of --data-dir: these splits of the pinned copies on the Hugging Face hub or in its cache.",
        ),
    ] = None,
    per_dataset: Annotated[
        int, typer.Option("--per-dataset", metavar="N", help="At most N questions of a data set; 0: all.")
    ] = 500,
    per_category: Annotated[
        int, typer.Option("--per-category", metavar="N", help="At most N questions of a category; 0: all.")
    ] = 100,
    rule_set: Annotated[
        str, typer.Option("--rule-set", help="evidence: real sentences and marked evidence; source: lengths and words.")
    ] = "evidence",
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            metavar="T",
            help="What tokens are counted with: tiny (the shipped models'), a folder with a tokenizer.json, a hub id.",
        ),
    ] = "tiny",
    fail_over: Annotated[
        float, typer.Option("--fail-over", metavar="SHARE", help="Share of bad records that is tolerated.")
    ] = 0.01,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.parquet", parser=as_path, help="File for the questions; none: tables only."
        ),
    ] = None,
    actors: Actors = None,
    address: Address = "auto",
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    dry_run: DryRun = False,
) -> None:
    """Sort questions into categories by their evidence, each with the reason, and draw a balanced sample."""
    from ..datasets import data_set as registry
    from ..datasets.classify.classify_run import ClassifyConfig, classify_into
    from ..datasets.classify.classifying import check, classify_gathered, gather, summary_path
    from ..datasets.classify.token_counts import open_counter
    from ..runtime import open_session
    from ..runtime.stage import Observer
    from .frame.console import Console

    output = Output(json=as_json, quiet=quiet, verbose=verbose)
    splits = [] if hub is None else _splits(hub, data_dir)
    wanted = datasets if datasets is not None else HUB_DATASETS if splits else "all"
    names = parse_names(wanted, registry.names(), option="--datasets")
    check(rule_set, per_dataset, per_category)
    open_counter(tokenizer)  # so that a wrong name is told before everything is read
    if out is not None:
        if out.suffix != ".parquet":
            raise UsageError(f"--out {out}: the questions are a Parquet file; give a name that ends in .parquet")
        if out.is_dir():
            raise UsageError(f"--out {out}: is a folder; give the name of a file")
        if not dry_run:
            writable_folder(out.parent)
    written = out if out is not None and not dry_run else None
    gathered = gather(
        names, data_dir or Path("data"), hub=splits, fail_over=fail_over, whatever_is_there=datasets is None
    )
    if gathered.missing:
        output.say(f"not there and left out: {', '.join(gathered.missing)}; --datasets says which must be there")
    few = address == "auto" and actors is None and not os.environ.get("RAY_ADDRESS")
    where = "none" if few and len(gathered.items) <= FEW_SHARDS else address
    config = ClassifyConfig(
        datasets=None if datasets is None else tuple(names), data_dir=None if splits else str(data_dir or "data"),
        hub=tuple(splits), per_dataset=per_dataset, per_category=per_category, rule_set=rule_set, tokenizer=tokenizer,
        fail_over=fail_over, seed=seed,
    )  # fmt: skip
    with ExitStack() as stack:
        session = stack.enter_context(open_session(where, actors=actors))
        observer = stack.enter_context(Console(output, "shards")) if len(gathered.items) > FEW_SHARDS else Observer()
        if written is None:
            summary = classify_gathered(
                gathered, rule_set=rule_set, tokenizer=tokenizer, per_dataset=per_dataset, per_category=per_category,
                seed=seed, session=session, progress=observer.progress,
            ).summary  # fmt: skip
        else:
            summary = classify_into(written, gathered, config, session=session, observer=observer)
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


def _splits(words: str, data_dir: Path | None) -> list[str]:
    from ..datasets.sources.hub import SPLITS

    if data_dir is not None:
        raise UsageError("--data-dir and --hub name two places to read from; give one of them")
    return parse_names(words, list(SPLITS), option="--hub")


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
    lines += ["", str(Table(["category", "level", *data_sets, "ambiguous", "taken"], rows))]
    if summary["shortfalls"]:
        short = [[s["category"], s["wanted"], s["taken"], s["why"]] for s in summary["shortfalls"]]
        lines += ["", str(Table(["short of", "wanted", "taken", "why"], short))]
    return [*lines, ""]


def _last_line(summary: dict[str, Any], out: Path | None, beside: Path | None) -> str:
    if out is None:
        return f"{summary['questions']} questions; --out FILE.parquet keeps them"
    return f"{summary['questions']} questions in {out}, summary in {beside}"
