"""`mplat perplexity DATA`: how well a model predicts the documents of The Pile, set by set.

Parses, makes the plan, runs it, prints the table. The work is in `mplat.perplexity.perplexity_run`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import ToleranceError
from .frame.command import command
from .frame.job_progress import JobCounter
from .frame.options import (
    Actors,
    Address,
    ConfigFile,
    DryRun,
    Fresh,
    Json,
    Out,
    Overrides,
    Quiet,
    TokenizerName,
    Verbose,
    as_path,
    given,
    run_name,
    writable_folder,
)
from .frame.output import Output, table
from .frame.where import forward_operations, place

if TYPE_CHECKING:
    from ..perplexity.perplexity_run import PerplexityPlan
    from ..perplexity.perplexity_summary import SetResult


@command("perplexity", order=46)
def perplexity(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            parser=as_path,
            help="Texts: a file or folder in The Pile's format, or your own as .txt, .jsonl, .csv, .parquet.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="A shipped model, a folder, or a hub id.")
    ] = None,
    tokenizer: TokenizerName = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="carried|harness",
            help="How a long document is read: with the state carried on (the default), or in the rolling windows of "
            "lm-evaluation-harness.",
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option("--window", metavar="N", help="Tokens read at once; default 512, for harness 2048.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="At most this many documents of each set.")
    ] = None,
    per_set: Annotated[bool, typer.Option("--per-set/--overall", help="Show every set, or only all together.")] = True,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Documents read together.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="auto|float32|bfloat16", help="Of the weights; auto: the faster one here."),
    ] = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            "--fail-over", metavar="SHARE", help="Share of bad records, and of documents without a value, tolerated."
        ),
    ] = None,
    actors: Actors = None,
    address: Address = "auto",
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    out: Out = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Everything random follows from it.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> None:
    """Measure bits per byte and perplexity of whole documents, per set of The Pile."""
    from ..core.config import load_config
    from ..perplexity.perplexity_run import PerplexityConfig, check_folder, measure, prepare, report_values
    from ..perplexity.perplexity_summary import set_values

    output = Output(json=as_json, quiet=quiet, verbose=verbose)
    chosen = {
        "data": str(data),
        "model": model,
        "tokenizer": tokenizer,
        "method": method,
        "window": window,
        "limit": limit,
        "seed": seed,
        "batch_size": batch_size,
        "dtype": dtype,
        "fail_over": fail_over,
    }
    settings = load_config(PerplexityConfig, config, [*given(chosen, {"data": "DATA"}), *overrides])
    plan = prepare(settings)
    folder = out or Path("runs") / run_name("perplexity", plan.model, data)
    check_folder(plan, folder, fresh=fresh)
    for line in _plan_lines(plan):
        output.say(line)
    bad = plan.reading.report.bad
    if bad:
        reasons = ", ".join(f"{reason} {count}" for reason, count in bad.items())
        output.warn(f"{sum(bad.values())} of {plan.reading.report.records} records left out: {reasons}")
    if dry_run:
        values = {
            "out": str(folder),
            "data": report_values(plan.reading.report),
            "config": settings.model_dump(mode="json"),
        }
        output.result(values, "\n".join([*_plan_lines(plan), f"out: {folder}"]) if quiet else f"out: {folder}")
        return
    writable_folder(folder)

    from ..runtime import open_session

    with ExitStack() as stack:
        read = sum(document.n_bytes for document in plan.reading.documents)  # no text has more tokens than bytes
        where = place(address, actors, forward_operations(plan.model, read))
        session = stack.enter_context(open_session(where, actors=actors))
        shown = stack.enter_context(ExitStack())
        counter = JobCounter(output, shown, "documents")
        result = measure(plan, out=folder, session=session, fresh=fresh, progress=counter)
    shown_sets = result.sets if per_set else result.sets[-1:]
    output.result(
        {
            "out": str(folder),
            "method": settings.method,
            "window": plan.window,
            "sets": [set_values(found) for found in shown_sets],
            "status": result.status,
            "data": report_values(plan.reading.report),
        },
        "\n".join([_title(plan), _table(shown_sets), f"results: {folder}"]),
    )
    if result.bad_share > settings.fail_over:
        total = sum(result.status.values())
        raise ToleranceError(
            f"{total - result.status.get('ok', 0)} of {total} documents have no value, more than the --fail-over "
            f"{settings.fail_over:g} allows; their status and reason are in {folder / 'documents.parquet'}"
        )


def _plan_lines(plan: PerplexityPlan) -> list[str]:
    report, documents = plan.reading.report, plan.reading.documents
    found = sum(count.documents for count in report.sets.values())
    chosen = "" if len(documents) == found else f", {len(documents)} of them chosen"
    return [
        f"model: {plan.model.name}, {str(plan.model.dtype).removeprefix('torch.')}",
        f"documents: {found} of {len(report.sets)} sets{chosen}",
    ]


def _title(plan: PerplexityPlan) -> str:
    how = {
        "carried": "the state carried through each document",
        "harness": f"rolling windows of {plan.window} tokens, as in lm-evaluation-harness",
    }
    return f"{plan.model.name}, {how[plan.config.method]}; {plan.config.confidence:.0%} intervals over documents"


def _table(sets: list[SetResult]) -> str:
    measures = list(sets[0].estimates)
    rows: list[list[Any]] = [
        [found.name, found.scored, f"{found.bytes:,}", *(_cell(found.estimates[name]) for name in measures)]
        for found in sets
    ]
    return table(["set", "documents", "bytes", *measures], rows)


def _cell(value: Any) -> str:
    if value.mean is None:
        return "-"
    known = value.low is not None and value.high is not None
    return f"{value.mean:.4g}" + (f" [{value.low:.4g}, {value.high:.4g}]" if known else "")
