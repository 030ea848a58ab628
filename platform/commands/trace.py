"""`mplat trace`: what in a model carries an answer, by restoring clean values into corrupted runs.

Parses, makes the plan, runs it, prints where most of the answer comes back. The work is in `mplat.interp.tracing`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import ToleranceError
from ..core.plain_text import Table
from ..core.typed_lists import parse_layers, parse_words
from .frame.command import command
from .frame.folders import run_folder, writable_cache, writable_folder
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
)
from .frame.output import Output
from .frame.where import forward_operations, place
from .interp import console

if TYPE_CHECKING:
    from ..interp.methods.trace_folder import TraceResult
    from ..interp.methods.trace_plan import TracePlan


@command("trace", order=42)
def trace(
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="A shipped model, a folder, or a hub id.")
    ] = None,
    tokenizer: TokenizerName = None,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="Trace this one prompt.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="WORDS", help="The part of --prompt that is corrupted.")
    ] = None,
    corrupt_with: Annotated[
        str | None,
        typer.Option(
            "--corrupt-with",
            metavar="WORDS",
            help="Replace the subject by these words of equal token length: no noise.",
        ),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            "--answer", metavar="WORDS", help="Answer to --prompt; default: what the model finds most probable."
        ),
    ] = None,
    facts: Annotated[
        str | None,
        typer.Option(
            "--facts",
            metavar="NAME|FILE",
            help="Trace many prompts: known_1000, counterfact, relations, generated, a file.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", parser=as_path, help="Where the files of --facts NAME are."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="At most this many facts.")] = None,
    correct_only: Annotated[
        bool | None,
        typer.Option(
            "--correct-only/--all", show_default=False, help="Of facts, those answered correctly (the default), or all."
        ),
    ] = None,
    judged: Annotated[
        str | None,
        typer.Option(
            "--judged", metavar="target|predicted", help="Of facts, measure the target, or what the model itself says."
        ),
    ] = None,
    corruption: Annotated[
        str | None,
        typer.Option(
            "--corruption", metavar="noise|replacement", help="Of facts: noise, or another fact's subject in its place."
        ),
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option("--sites", metavar="A,B+C", help="What is restored, + joins several; default: all the model has."),
    ] = None,
    layers: Annotated[str | None, typer.Option("--layers", metavar="0,2-4|all", help="Blocks; default all.")] = None,
    window: Annotated[int | None, typer.Option("--window", metavar="N", help="Blocks restored together.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", metavar="N", help="Noisy runs of every prompt.")] = None,
    noise: Annotated[
        float | None,
        typer.Option("--noise", metavar="X", help="Its standard deviation; default: 3 times that of the subjects."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="prob|logprob|logit_diff", help="What is compared.")
    ] = None,
    fail_over: Annotated[
        float | None,
        typer.Option("--fail-over", metavar="SHARE", help="Share of prompts that fail above which the exit is 1."),
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
    """Trace answers: which site, layer and token brings the clean answer back into a corrupted run."""
    from ..core.config import load_config
    from ..interp.methods.trace_config import TraceConfig, check_settings

    output = Output(json=as_json, quiet=quiet, verbose=verbose)
    chosen = {
        "model": model,
        "tokenizer": tokenizer,
        "prompt": prompt,
        "subject": subject,
        "corrupt_with": corrupt_with,
        "answer": answer,
        "facts": facts,
        "data_dir": None if data_dir is None else str(data_dir),
        "limit": limit,
        "correct_only": correct_only,
        "judged": judged,
        "corruption": corruption,
        "sites": None if sites is None else parse_words(sites, option="--sites"),
        "window": window,
        "samples": samples,
        "noise": noise,
        "metric": metric,
        "fail_over": fail_over,
        "seed": seed,
    }
    own = given(chosen, {"correct_only": "--correct-only" if correct_only else "--all"})
    settings = load_config(TraceConfig, config, [*own, *overrides])
    check_settings(settings)

    from ..interp.methods.facts_source import read_facts
    from ..interp.methods.trace_plan import prepare
    from ..models import load

    read = None if settings.facts is None else read_facts(settings)  # a wrong file is found before a model is loaded
    assert settings.model is not None
    opened = load(settings.model, dtype=settings.dtype, tokenizer=settings.tokenizer)
    if layers is not None:
        blocks = given({"layers": parse_layers(layers, opened.n_layers)})
        settings = load_config(TraceConfig, config, [*own, *overrides, *blocks])
    for note in () if read is None else read.notes:
        output.warn(note)
    plan = prepare(settings, opened, None if read is None else read.prompts)
    folder = out or run_folder("trace", opened, settings.facts)

    from ..interp import Cache
    from ..interp.methods.trace_folder import planned, run_trace
    from ..report.trace_pictures import draw
    from ..runtime import open_session

    planned(plan).check(folder, fresh=fresh)
    for line in _plan_lines(plan):
        output.say(line)
    if dry_run:
        values = {"out": str(folder), "plan": _plan_values(plan), "config": settings.model_dump(mode="json")}
        output.result(values, "\n".join([*_plan_lines(plan), f"out: {folder}"]) if quiet else f"out: {folder}")
        return
    writable_cache()
    writable_folder(folder)
    with ExitStack() as stack:
        longest = max(len(item.tokens) for item in plan.items)
        where = place(address, actors, forward_operations(plan.model, plan.restorations * longest))
        session = stack.enter_context(open_session(where, actors=actors))
        store = Cache(warn=output.warn)
        result = run_trace(
            plan, out=folder, session=session, fresh=fresh, cache=store, observer=console(output, stack), draw=draw
        )
    output.result(_values(plan, result), _text(plan, result))
    _judge(plan, result)


def _judge(plan: TracePlan, result: TraceResult) -> None:
    """ToleranceError where nothing was traced, or too many prompts failed."""
    where = f"their status and reason are in {result.out / 'traces.parquet'}"
    if not result.traced:
        counts = ", ".join(f"{status} {count}" for status, count in result.statuses.items())
        hint = "; --all traces them too" if "model_wrong" in result.statuses else ""
        raise ToleranceError(f"no prompt was traced ({counts}){hint}; {where}")
    if result.failed_share > plan.config.fail_over:
        raise ToleranceError(
            f"{result.failed_share:.0%} of the prompts failed, more than the --fail-over {plan.config.fail_over:g} "
            f"allows; {where}"
        )


def _plan_values(plan: TracePlan) -> dict[str, Any]:
    return {
        "model": plan.model.name,
        "model_digest": plan.model.digest,
        "prompts": len(plan.items),
        "excluded": {e.id: e.status for e in plan.excluded},
        "correct_only": plan.correct_only,
        "tokens": sum(len(item.tokens) for item in plan.items),
        "sites": list(plan.sites),
        "layers": list(plan.layers),
        "corruption": plan.kind,
        "noise": plan.noise,
        "restorations": plan.restorations,
    }


def _plan_lines(plan: TracePlan) -> list[str]:
    from ..interp.methods.trace_words import corruption_in_words, window_in_words

    which = "" if not plan.many else ", those answered correctly" if plan.correct_only else ", all of them"
    return [
        f"model: {plan.model.name}, layers {', '.join(map(str, plan.layers))}",
        f"prompts: {len(plan.items)}{which}; {sum(len(item.tokens) for item in plan.items):,} tokens"
        + (f"; {len(plan.excluded)} cannot be traced" if plan.excluded else ""),
        f"corruption: {corruption_in_words(plan)}",
        f"restored: {', '.join(plan.sites)}; {window_in_words(plan)}; {plan.restorations:,} restorations at most",
    ]


def _values(plan: TracePlan, result: TraceResult) -> dict[str, Any]:
    total = None
    if result.averages is not None and result.averages.num_rows:
        first = result.averages.slice(0, 1).to_pylist()[0]
        total = {name: first[name] for name in ("ate", "ate_low", "ate_high")}
    return {
        "out": str(result.out),
        **_plan_values(plan),
        "statuses": result.statuses,
        "traced": result.traced,
        "total_effect": total,
        "strongest": _strongest(plan, result),
        "files": result.files,
    }


def _strongest(plan: TracePlan, result: TraceResult) -> list[dict[str, Any]]:
    """The place of each site that brings most back: an average's for facts, a token's for one prompt."""
    source = result.averages if plan.many else result.traces
    if source is None or not result.traced:
        return []
    rows = source.to_pylist()
    kept = ("site", "layer", *(("bin", "effect", "low", "high", "prompts") if plan.many else
            ("position", "token", "effect", "effect_std")))  # fmt: skip
    best = []
    for site in plan.sites:
        of_site = [row for row in rows if row["site"] == site]
        if of_site:
            row = max(of_site, key=lambda row: row["effect"])
            best.append({name: row[name] for name in kept})
    return best


def _text(plan: TracePlan, result: TraceResult) -> str:
    best = _strongest(plan, result)
    lines = []
    if best:
        first = result.traces.to_pylist()[0] if not plan.many else None
        if first is not None:
            lines.append(
                f"answer {first['answer_token']!r}: p {first['p_clean']:.4g} clean, {first['p_corrupted']:.4g} "
                "corrupted; where most of it comes back:"
            )
        else:
            lines.append("average indirect effects: where most of the answer comes back")
        lines.append(str(Table(list(best[0]), [list(row.values()) for row in best])))
    counts = ", ".join(f"{status} {count}" for status, count in result.statuses.items())
    if plan.many:
        lines.append(f"prompts: {counts}")
    return "\n".join([*lines, f"results: {result.out}"])
