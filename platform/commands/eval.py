"""`mplat eval`: does steering help, on questions it was not tuned on, against its controls, and at what price?

Parses, makes the plan, runs it, prints the table per level and the verdict. The work is in `mplat.eval`.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import ToleranceError, UsageError
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
    writable_cache,
    writable_folder,
)
from .frame.output import Output, cost_lines, table
from .frame.values import parse_layers, parse_names, parse_numbers
from .frame.where import forward_operations, place

if TYPE_CHECKING:
    from ..eval.planning import Plan
    from ..eval.runner import EvalResult
    from ..eval.summary import Summary


@command("eval", order=44)
def evaluate(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="M", help="A shipped model, a folder, or a hub id; default: the variant's."),
    ] = None,
    tokenizer: TokenizerName = None,
    steering: Annotated[
        str | None,
        typer.Option(
            "--steering",
            metavar="NAME",
            help="Steering variant, such as mamba or mamba2; general: for any model; none: ask without steering.",
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            metavar="FILE",
            parser=as_path,
            help="Questions from `mplat classify`, or prompts of your own as .txt, .jsonl, .csv or .parquet.",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            metavar="prompts|dataset|both",
            help="Ask generated prompts of six levels, the rows of --questions (the default where given), or both.",
        ),
    ] = None,
    per_level: Annotated[
        int | None, typer.Option("--per-level", metavar="N", help="Generated prompts per level.")
    ] = None,
    strength: Annotated[
        str | None, typer.Option("--strength", metavar="0.5,1,2", help="Candidate strengths; 1 changes nothing.")
    ] = None,
    layers: Annotated[str | None, typer.Option("--layers", metavar="0,6,12", help="Candidate layers.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", metavar="FILE", parser=as_path, help="Judge this stored recipe; search for none."),
    ] = None,
    controls: Annotated[
        str | None, typer.Option("--controls", metavar="all|none|NAMES", help="What steering is compared with: random.")
    ] = None,
    draws: Annotated[int | None, typer.Option("--draws", metavar="N", help="Random draws of each control.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", metavar="N", help="Longest answer in tokens.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Prompts answered together.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="auto|float32|bfloat16", help="Of the weights; auto: the faster one here."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="At most this many questions.")] = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            "--fail-over", metavar="SHARE", help="Share of test rows without a score above which the exit is 1."
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
    """Evaluate steering: search on development questions, judge on test questions, with controls and price."""
    from ..core.config import load_config
    from ..eval.eval_config import EvalConfig

    output = Output(json=as_json, quiet=quiet, verbose=verbose)
    chosen = {
        "model": model,
        "tokenizer": tokenizer,
        "questions": None if questions is None else str(questions),
        "mode": mode,
        "per_level": per_level,
        "limit": limit,
        "seed": seed,
        "steering.variant": steering,
        "steering.recipe": None if recipe is None else str(recipe),
        "steering.strengths": None if strength is None else _strengths(strength),
        "controls": None if controls is None else _controls(controls),
        "draws": draws,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "dtype": dtype,
        "fail_over": fail_over,
    }
    own = given(
        chosen,
        {"steering.variant": "--steering", "steering.recipe": "--recipe", "steering.strengths": "--strength"},
    )
    settings = load_config(EvalConfig, config, [*own, *overrides])
    if settings.steering.recipe is not None and (layers or strength):
        raise UsageError("--recipe judges a stored recipe; leave out --layers and --strength, which search for one")

    if settings.steering.variant == "none":
        for option, value in (("--strength", strength), ("--layers", layers), ("--recipe", recipe)):
            if value is not None:
                raise UsageError(f"{option} has no meaning with --steering none; leave one of them out")

    from ..eval.planning import prepare, read_questions, variant_and_model

    read_questions(settings)  # a wrong file is found before a large model is loaded
    _, opened = variant_and_model(settings)
    if layers is not None:
        blocks = given({"steering.layers": parse_layers(layers, opened.n_layers)}, {"steering.layers": "--layers"})
        settings = load_config(EvalConfig, config, [*own, *overrides, *blocks])
    plan = prepare(settings, opened)
    if plan.grid_size and {value for values in plan.strengths.values() for value in values} == {1.0}:
        raise UsageError("--strength 1 changes nothing, so there is nothing to choose from; give another one besides")
    folder = out or Path("runs") / run_name("eval", opened, settings.questions)

    from ..eval.runner import check_folder

    check_folder(plan, folder, fresh=fresh)
    for line in _plan_lines(plan):
        output.say(line)
    if dry_run:
        from ..eval.estimate import estimate

        cost = estimate(plan)
        values = {"out": str(folder), "plan": _plan_values(plan), "cost": cost._asdict()}
        lines = [*(_plan_lines(plan) if quiet else []), *cost_lines(cost), f"out: {folder}"]
        output.result(values | {"config": settings.model_dump(mode="json")}, "\n".join(lines))
        return
    writable_folder(folder)
    if plan.grid_size:  # the search for channels is cached
        writable_cache()

    from ..core.folders import cache_folder
    from ..eval.runner import Observer
    from ..eval.runner import evaluate as run
    from ..interp import bottleneck_finder
    from ..runtime import open_session

    with ExitStack() as stack:
        where = place(address, actors, forward_operations(plan.model, plan.tokens))
        session = stack.enter_context(open_session(where, actors=actors))
        shown = stack.enter_context(ExitStack())
        observer = Observer(say=output.say, progress=JobCounter(output, shown, "answers"))
        find = bottleneck_finder(
            plan.model, plan.asked_in_development, cache_dir=cache_folder(), seed=plan.config.seed,
            max_tokens=plan.config.max_prompt_tokens, template=plan.config.template, say=output.say,
        )  # fmt: skip
        result = run(plan, out=folder, session=session, find_channels=find, fresh=fresh, observer=observer)
    summary = result.summary.to_dict()
    output.result(
        {
            "out": str(folder),
            "recipe": None if result.recipe is None else result.recipe.to_dict(),
            "bad_share": result.bad_share,
            "summary": summary,
        },
        _report(result),
    )
    if result.bad_share > settings.fail_over:
        raise ToleranceError(
            f"{result.summary.bad_test_rows} of {result.summary.test_rows} test rows have no score, more than the "
            f"--fail-over {settings.fail_over:g} allows; their status and reason are in {folder / 'items.parquet'}"
        )


def _strengths(text: str) -> list[float]:
    from ..steering.operators import MAX_STRENGTH

    return parse_numbers(text, low=0, high=MAX_STRENGTH, low_included=False, option="--strength")


def _controls(text: str) -> list[str]:
    from ..steering.controls import control_names

    return [] if text.strip() == "none" else parse_names(text, control_names(), option="--controls")


def _plan_values(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.model.name,
        "variant": plan.variant.name,
        "mode": plan.mode,
        "development": len(plan.development),
        "test": len(plan.test),
        "unanswerable": len(plan.unanswerable),
        "unused": len(plan.unused),
        "refused": len(plan.refused),
        "cut": sum(prompt.cut_tokens > 0 for prompt in plan.prompts.values()),
        "evidence_lost": sum(prompt.evidence_kept is False for prompt in plan.prompts.values()),
        "candidates": plan.grid_size,
        "layers": list(plan.layers),
        "strengths": {name: list(values) for name, values in plan.strengths.items()},
        "controls": {name: plan.config.draws for name in plan.controls},
    }


def _arithmetic(plan: Plan) -> str:
    """The dtype of the weights and why."""
    from ..models.precision import faster_dtype

    name = str(plan.model.dtype).removeprefix("torch.")
    if plan.config.dtype != "auto":
        return name
    return f"{name} ({faster_dtype(plan.model.device, plan.model.config.d_model)[1]})"


def _plan_lines(plan: Plan) -> list[str]:
    counted = f"{len(plan.development)} development, {len(plan.test)} test" if plan.steers else str(len(plan.test))
    lines = [
        f"model: {plan.model.name}, variant {plan.variant.name}, {_arithmetic(plan)}",
        f"questions: {counted}"
        + (f", {len(plan.unanswerable)} without an answer" if plan.unanswerable else "")
        + (f", {len(plan.unused)} of the development side unused" if plan.unused else "")
        + (f", {len(plan.refused)} cannot be asked or scored" if plan.refused else ""),
        _steering_line(plan),
    ]
    if plan.steers:
        lines.append(f"controls: {', '.join(f'{name} x {plan.config.draws}' for name in plan.controls) or 'none'}")
    if cut := sum(prompt.cut_tokens > 0 for prompt in plan.prompts.values()):
        lost = sum(prompt.evidence_kept is False for prompt in plan.prompts.values())
        lines.append(
            f"contexts: {cut} are cut to {plan.config.max_prompt_tokens} tokens a prompt, {lost} of them lose evidence"
        )
    return lines


def _steering_line(plan: Plan) -> str:
    if not plan.steers:
        return "not steered: every question is asked of the model as it is"
    if plan.recipe is not None:
        unknown = "; it does not say on which questions it was found, some of these may be among them"
        return f"recipe: {plan.config.steering.recipe}{unknown if plan.recipe.decided_on is None else ''}"
    grid = ", ".join(f"{name} by {'/'.join(f'{v:g}' for v in values)}" for name, values in plan.strengths.items())
    return f"search: {plan.grid_size} candidates, {grid}, layers {', '.join(map(str, plan.layers))}"


def _report(result: EvalResult) -> str:
    """The table per level, with data sets where there are several, and the verdict."""
    summary = result.summary
    families = list(summary.overall.em.conditions)
    compared = [name for name in summary.overall.em.differences if name.startswith("steered-")]
    at = [dataclasses.replace(group, name=f"distance {group.name}") for group in summary.distances]
    at += [dataclasses.replace(group, name=f"prompt {group.name}") for group in summary.cuts]
    at += [dataclasses.replace(group, name=f"evidence {group.name}") for group in summary.evidence]
    groups = [*summary.levels, *(summary.datasets if len(summary.datasets) > 1 else []), *at, summary.overall]
    rows = []
    for group in groups:
        row: list[object] = [group.level, group.name, group.n]
        row += [_cell(group.em.conditions[family]) for family in families]
        row += [_cell(group.em.differences[name], signed=True) for name in compared]
        differences = [group.em.differences[name] for name in compared]
        rows.append([*row, *(d.p if d.p_holm is None else d.p_holm for d in differences)])
    names = [family.removeprefix("control_") for family in families]
    columns = ["level", "group", "n", *names, *(c.replace("control_", "").replace("-", " - ") for c in compared)]
    columns += [f"p({c.split('-')[1].removeprefix('control_')})" for c in compared]
    bad = summary.bad_test_rows
    lines = [
        f"exact match on {'test' if compared else 'all'} questions, {summary.method['confidence']:.0%} intervals"
        + ("; p corrected across levels" if compared else ""),
        table(columns, rows),
        "",
        *_guess_lines(summary, families),
        summary.verdict.sentence,
    ]
    if bad:
        counted = ", ".join(
            f"{family} {status} {count}"
            for family, statuses in summary.status.items()
            for status, count in statuses.items()
            if status != "ok"
        )
        lines.append(f"{bad} of {summary.test_rows} test rows have no score ({counted}).")
    return "\n".join([*lines, f"results: {result.out}"])


def _guess_lines(summary: Summary, families: list[str]) -> list[str]:
    """How often something was answered that the text does not say; nothing where nobody was asked such a question."""
    if not summary.guesses:
        return []
    names = [family.removeprefix("control_") for family in families]
    rows: list[list[object]] = []
    for guesses in summary.guesses:
        named = [_cell(guesses.named.conditions[family]) for family in families]
        rows.append([guesses.kind, guesses.n, *named, *(_cell(guesses.original.conditions[f]) for f in families)])
    columns = ["no answer", "n", *(f"{name} guesses" for name in names), *(f"{name} original" for name in names)]
    return [
        "answers to questions that their text does not answer: any name of the right kind, and the original's answer",
        table(columns, rows),
        "",
    ]


def _cell(value: Any, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if value.mean is None:
        return "-"
    interval = "" if value.low is None else f" [{value.low:{sign}.2f}, {value.high:{sign}.2f}]"
    return f"{value.mean:{sign}.3f}{interval}"
