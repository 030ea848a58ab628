"""`mplat interp`: analyses of a model on questions, each computed once and cached; and `mplat interp ls`.

Parses, makes the plan, runs it, shows what was found. The work is in `mplat.interp`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import ToleranceError, UsageError
from ..core.plain_text import Table, duration
from ..core.typed_lists import parse_layers, parse_names
from .frame.command import command
from .frame.folders import writable_cache, writable_folder
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
from .frame.output import Output, Progress
from .frame.where import forward_operations, place

if TYPE_CHECKING:
    from ..interp import Plan, StepResult
    from ..runtime import Progress as JobProgress

PASSES = 10  # of a step over a prompt, about
ModelName = Annotated[str | None, typer.Option("--model", metavar="M", help="A shipped model, a folder, or a hub id.")]
Layers = Annotated[str | None, typer.Option("--layers", metavar="0,2-4|all", help="Blocks to look at; default all.")]
Questions = Annotated[
    Path | None,
    typer.Option(
        "--questions",
        metavar="FILE",
        parser=as_path,
        help="Questions from `mplat classify`, or prompts of your own as .txt, .jsonl, .csv or .parquet; default: "
        "prompts of the facts world.",
    ),
]
PerLevel = Annotated[
    int | None, typer.Option("--per-level", metavar="N", help="Generated prompts for each of the six levels.")
]
Facts = Annotated[
    str | None,
    typer.Option(
        "--facts",
        metavar="NAME|FILE",
        help="Factual prompts for the analyses that take them: known_1000, counterfact, relations, generated, a file.",
    ),
]
DataFolder = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", parser=as_path, help="Where the files of --facts NAME are."),
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="At most this many facts.")]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache", metavar="DIR", parser=as_path, help="Cache folder; default: MPLAT_CACHE, else ~/.cache/mplat."
    ),
]
OwnSeed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Everything random follows from it.")]


@command("interp", order=40)
def interp(
    model: ModelName = None,
    tokenizer: TokenizerName = None,
    steps: Annotated[
        str | None, typer.Option("--steps", metavar="all|A,B", help="Analyses to run; `mplat interp ls` lists them.")
    ] = None,
    layers: Layers = None,
    questions: Questions = None,
    per_level: PerLevel = None,
    facts: Facts = None,
    data_dir: DataFolder = None,
    limit: Limit = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            "--fail-over", metavar="SHARE", help="Share of a step's rows without a value above which the exit is 1."
        ),
    ] = None,
    actors: Actors = None,
    address: Address = "auto",
    cache: CacheFolder = None,
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    out: Out = None,
    seed: OwnSeed = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> None:
    """Analyse a model: activations, sensitivity, attribution, bottlenecks. What is cached is not computed again."""
    output = Output(json=as_json, quiet=quiet, verbose=verbose)
    own = {
        "model": model,
        "tokenizer": tokenizer,
        "steps": steps,
        "questions": questions,
        "per_level": per_level,
        "facts": facts,
        "data_dir": None if data_dir is None else str(data_dir),
        "limit": limit,
        "seed": seed,
    }
    if fail_over is not None and not 0 <= fail_over <= 1:
        raise UsageError(f"--fail-over {fail_over:g}: a share lies between 0 and 1")
    plan = make_plan(own, layers, config, overrides)

    from ..interp import Cache, run_plan
    from ..interp.engine.run_record import INPUTS, planned, run_into
    from ..interp.engine.statuses import FAIL_OVER, failed
    from ..runtime import open_session
    from ..runtime.record import read_run

    if out is not None:
        planned(plan).check(out, fresh=fresh)
    refuse_file(cache)
    store = Cache(cache, warn=output.warn)
    missing = [name for name in plan.steps if fresh or store.find(name, plan.steps[name].key.digest) is None]
    for excluded in plan.data.excluded:
        output.warn(f"question {excluded.id!r} is left out, {excluded.status}: {excluded.reason}")
    for note in plan.notes:
        output.warn(note)
    if plan.left_out:
        output.say(f"not run, since nobody named them or the prompts and models they take: {', '.join(plan.left_out)}")
    if dry_run:
        output.result(_plan_values(plan, missing, store.folder), _plan_text(plan, missing, store.folder))
        return
    writable_cache(cache)
    if out is not None:
        writable_folder(out)
    with ExitStack() as stack:
        # Ray is not started for what only has to be read; a step reads every prompt a few times, forwards and backwards
        work = forward_operations(plan.model, PASSES * sum(plan.data.lengths)) * len(missing)
        where = place(address, actors, work) if missing else "none"
        session = stack.enter_context(open_session(where, actors=actors if missing else None))
        observer = console(output, stack)
        if out is None:
            results = run_plan(plan, cache=store, session=session, fresh=fresh, observer=observer)
        else:
            results = run_into(out, plan, cache=store, session=session, fresh=fresh, observer=observer)
    files = [] if out is None else [name for name in read_run(out).files if name not in INPUTS.values()]
    output.result(
        _values(plan, results, store.folder) | {"out": None if out is None else str(out)},
        _text(plan, results, [f"tables: {', '.join(files)} in {out}"] if files else []),
    )
    allowed = FAIL_OVER if fail_over is None else fail_over
    if too_many := failed(results, plan.wanted, allowed):
        raise ToleranceError(
            f"{'; '.join(too_many)}: more than the --fail-over {allowed:g} allows, or all of them; every row's status "
            f"is in the tables under {store.folder if out is None else out}"
        )


@command("interp ls", order=41)
def interp_ls(as_json: Json = False) -> None:
    """List the analyses: what each finds, what it needs, its settings."""
    from ..interp import all_steps

    steps = list(all_steps().values())
    rows = [[s.name, s.version, s.items, ", ".join(s.needs) or None, s.meaning] for s in steps]
    defaults = {s.name: s.settings().model_dump(mode="json") for s in steps}
    lines = ["", "settings, for --set KEY=VALUE:"]
    lines += [f"{name}.{key}={json.dumps(value)}" for name in defaults for key, value in defaults[name].items()]
    text = "\n".join([str(Table(["step", "version", "items", "needs", "finds"], rows)), *lines])
    values = [
        {"step": s.name, "version": s.version, "items": s.items, "needs": s.needs, "meaning": s.meaning,
         "settings": defaults[s.name]}
        for s in steps
    ]  # fmt: skip
    Output(json=as_json).result({"steps": values}, text)


def make_plan(own: Mapping[str, Any], layers: str | None, config: Path | None, overrides: list[str]) -> Plan:
    """The plan of a run: configuration, then steps, then the model, its layers, and the questions."""
    from ..core.config import load_config
    from ..interp import all_steps, config_model, plan_steps
    from ..interp.engine.graph import in_order
    from ..interp.engine.inputs import Given, chosen_steps, read_missing

    chosen = dict(own)
    if chosen.get("steps") is not None:
        chosen["steps"] = parse_names(chosen["steps"], all_steps(), option="--steps")
    if chosen.get("questions") is not None:
        chosen["questions"] = str(chosen["questions"])
    settings = load_config(config_model(), config, [*given(chosen), *overrides])
    if settings.model is None:
        raise UsageError("no model is named; give --model M (`mplat models` lists those that ship)")
    names = chosen_steps(settings, others=len(settings.compare))
    kinds = {step.items for step in in_order(names)}
    read = read_missing(kinds, settings, Given())  # a wrong file is found before a large model is loaded

    from ..models import load

    opened = load(settings.model, tokenizer=settings.tokenizer)
    if layers is not None:
        settings = settings.model_copy(update={"layers": tuple(parse_layers(layers, opened.n_layers))})
    others = [load(name, tokenizer=settings.tokenizer) for name in settings.compare]
    return plan_steps(opened, config=settings, given=read, others=others)


def refuse_file(cache: Path | None) -> None:
    """UsageError where the cache folder, named or default, is a file."""
    from ..core.folders import CACHE_VARIABLE, cache_folder

    folder = cache_folder() if cache is None else cache
    if folder.is_file():
        told = CACHE_VARIABLE if cache is None else "--cache"
        raise UsageError(f"{told} {folder}: is a file; a cache is a folder, name one")


def _plan_values(plan: Plan, missing: list[str], cache: Path) -> dict[str, Any]:
    return {
        "model": plan.model.name,
        "model_digest": plan.model.digest,
        "questions": len(plan.data.items),
        "layers": list(plan.layers),
        "cache": str(cache),
        "steps": [
            {"step": name, "key": planned.key.digest, "cached": name not in missing}
            for name, planned in plan.steps.items()
        ],
        "config": plan.config.model_dump(mode="json"),
    }


def _plan_text(plan: Plan, missing: list[str], cache: Path) -> str:
    batches = len(plan.data.plan(plan.config.batch_size))
    rows = [
        [name, "missing" if name in missing else "cached", planned.key.digest[:12], name in plan.wanted]
        for name, planned in plan.steps.items()
    ]
    lines = [
        f"model: {plan.model.name}, layers {', '.join(map(str, plan.layers))}",
        f"prompts: {len(plan.data.items)} in {batches} batches, {sum(plan.data.lengths):,} tokens",
        f"cache: {cache}",
        str(Table(["step", "state", "key", "asked for"], rows)),
    ]
    return "\n".join(lines)


def _values(plan: Plan, results: Mapping[str, StepResult], cache: Path) -> dict[str, Any]:
    return {
        "model": plan.model.name,
        "model_digest": plan.model.digest,
        "questions": len(plan.data.items),
        "left_out": {e.id: e.status for e in plan.data.excluded},
        "layers": list(plan.layers),
        "cache": str(cache),
        "steps": [
            {
                "step": name,
                "key": result.key,
                "cached": result.seconds is None,
                "rows": result.rows,
                "not_ok": result.bad,
                "folder": str(cache / name / result.key),
            }
            for name, result in results.items()
        ],
    }


def _text(plan: Plan, results: Mapping[str, StepResult], more: list[str]) -> str:
    from ..interp.engine.statuses import sentence

    rows = [
        [
            name,
            result.rows,
            sum(result.bad.values()),
            "cached" if result.seconds is None else duration(result.seconds),
            result.key[:12],
        ]
        for name, result in results.items()
    ]
    parts = [
        f"{len(plan.data.items)} prompts, model {plan.model.name} (digest {plan.model.digest[:12]})",
        str(Table(["step", "rows", "not ok", "time", "key"], rows)),
    ]
    if told := [text for result in results.values() if (text := sentence(result)) is not None]:
        parts.append("\n".join(told))
    if "bottlenecks" in results and "bottlenecks" in plan.wanted:
        parts.append(_bottlenecks(results["bottlenecks"]))
    return "\n\n".join(parts + more)


def _bottlenecks(result: StepResult) -> str:
    """Every ablation beside the mean of its random controls, with the test against them."""
    rows = [row for row in result.table.to_pylist() if row["kind"] == "group"]
    shown = []
    for row in rows:
        if row["control"]:
            continue
        family = ("layer", "site", "n_channels")
        controls = [
            r["effect_logprob"]
            for r in rows
            if r["control"] and all(r[key] == row[key] for key in family) and r["effect_logprob"] is not None
        ]
        random = sum(controls) / len(controls) if controls else None
        shown.append(
            [row["layer"], row["site"], row["group"], row["n_channels"], row["effect_logprob"], row["effect_low"],
             row["effect_high"], random, row["difference"], row["p_holm"], row["verdict"] or "", row["accuracy_change"],
             row["status"]]
        )  # fmt: skip
    columns = ["layer", "site", "ablated", "channels", "log p", "low", "high", "random", "difference", "p", "verdict",
               "accuracy", "status"]  # fmt: skip
    return "mean ablation, change of the right answer's log-probability (nats) and accuracy:\n" + str(
        Table(columns, shown)
    )


def console(output: Output, stack: ExitStack) -> Any:
    """An observer that shows a run through the command's output."""
    from ..interp import Observer

    class Console(Observer):
        def __init__(self) -> None:
            self._open: ExitStack | None = None
            self._progress: Progress | None = None
            self._done = 0

        def say(self, text: str) -> None:
            output.say(text)

        def begin(self, part: str, detail: str = "") -> None:
            output.say(f"{part}: {detail}")

        def progress(self, progress: JobProgress) -> None:
            if progress.note:
                output.warn(progress.note)
            if self._progress is None or progress.shards_done < self._done:  # the step's next phase counts from 0
                self._close()
                self._open = stack.enter_context(ExitStack())
                self._progress = self._open.enter_context(output.progress(progress.name, progress.shards, "batches"))
            self._progress.advance(progress.shards_done - self._done)
            self._done = progress.shards_done

        def end(self, part: str, outcome: str, seconds: float) -> None:
            self._close()

        def _close(self) -> None:
            if self._open is not None:
                self._open.close()
            self._open, self._progress, self._done = None, None, 0

    return Console()
