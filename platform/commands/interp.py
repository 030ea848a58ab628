"""`mplat interp`: analyses of a model on questions, each computed once and cached."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import ToleranceError, UsageError
from .frame.command import command
from .frame.folders import refuse_file, run_folder, writable
from .frame.models import named
from .frame.models import opened as opened_model
from .frame.options import CacheFolder
from .frame.run import At, Outcome, Run, Typed
from .frame.where import forward_operations

if TYPE_CHECKING:
    from ..interp import InterpConfig, Plan
    from ..interp.engine.failures import Carried
    from ..models import LanguageModel

CHECK = "setup"  # the step that `--check` runs


@command("interp", order=40, config="interp.engine.interp_config.config_model")
def interp(
    typed: Typed[InterpConfig],
    cache: CacheFolder = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            "--fail-over", metavar="SHARE", help="Share of a step's rows without a value above which the exit is 1."
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="KEY=A,B",
            help="Run at each of these values of a setting, such as length=128,512 or memory_decay.theta=.5,.7; may be "
            "repeated.",
        ),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            "--checkpoints",
            metavar="RUN",
            help="Run at the checkpoints of a training run; RUN@100..2000 for a range of steps, RUN@*:3 for every "
            "third.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Make the parity certificate of the model anew (the step setup), alone.")
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain", metavar="ID", help="Take the question with this id apart, on one page, instead of the steps."
        ),
    ] = None,
) -> Run:
    """Analyse a model: activations, sensitivity, attribution, bottlenecks. What is cached is not computed again."""
    if explain is not None:
        return _explaining(
            typed, explain, cache,
            {"--check": check, "--fail-over": fail_over is not None, "--sweep": bool(sweep),
             "--checkpoints": checkpoints is not None},
        )  # fmt: skip
    if fail_over is not None and not 0 <= fail_over <= 1:
        raise UsageError(f"--fail-over {fail_over:g}: a share lies between 0 and 1")
    if sweep or checkpoints is not None:
        if check:
            raise UsageError("--check looks at one model as it is; leave out --check, --sweep or --checkpoints")
        from .interp_points import at_points

        return at_points(typed, sweep or [], checkpoints, cache, fail_over)
    if check:
        typed = _checking(typed)
    plan, out, fresh = plan_of(typed), typed.shared.out, typed.shared.fresh

    from ..interp import Cache
    from ..interp.engine import in_words
    from ..interp.engine.costs import estimate, tokens_of
    from ..interp.engine.run import carry_out
    from ..interp.engine.run_record import INPUTS, planned, run_into
    from ..runtime.record import read_run

    refuse_file(cache)
    store = Cache(cache, warn=typed.output.warn)
    anew = fresh or check
    missing = [name for name in plan.steps if anew or store.find(name, plan.steps[name].key.digest) is None]
    if plan.left_out and not check:
        left_out = ", ".join(plan.left_out)
        typed.output.say(f"not run, since nobody named them or the prompts and models they take: {left_out}")

    def again(step: str) -> str:
        return again_alone(typed, step, cache)

    def work(at: At) -> Outcome:
        if check:  # one that is read proves nothing of this machine, today
            store.remove(CHECK, plan.steps[CHECK].key.digest)
        if out is None:
            done = carry_out(plan, cache=store, session=at.session, fresh=fresh, observer=at.console)
        else:
            done = run_into(
                out, plan, cache=store, session=at.session, fresh=fresh, observer=at.console, again=again
            )  # fmt: skip
        files = [] if out is None else [name for name in read_run(out).files if name not in INPUTS.values()]
        values = in_words.result_values(plan, done, store.folder, again) | {"out": None if out is None else str(out)}
        words = in_words.result_words(plan, done, again)
        words += [f"\ntables: {', '.join(files)} in {out}"] if files else []
        where = str(store.folder if out is None else out)
        return Outcome(values, words, failure_of(plan.wanted, done, fail_over, where))

    left_out = [f"question {e.id!r} is left out, {e.status}: {e.reason}" for e in plan.data.excluded]
    costs = estimate(plan, missing) if typed.shared.dry_run else None
    return Run(
        work,
        folder=None,
        check=planned(plan).check,
        operations=forward_operations(plan.model, 1) * tokens_of(plan, missing),
        device=str(plan.model.device),
        lines=in_words.plan_words(plan, missing, store.folder, costs),
        plan=in_words.plan_values(plan, missing, store.folder, costs),
        says_lines=False,
        unit="prompts",
        warnings=[*left_out, *plan.notes],
        cost=None if costs is None else lambda: costs.total,
        prepare=partial(writable, caches=True, cache=cache),
    )


def _explaining(typed: Typed[InterpConfig], wanted: str, cache: Path | None, others: Mapping[str, bool]) -> Run:
    """One question, its tables and its page; UsageError beside options that say what is analysed instead."""
    refused = [name for name in ("--steps", "--compare", "--texts") if name in typed.options()]
    refused += [name for name, given in others.items() if given]
    if refused:
        raise UsageError(f"--explain takes one question apart and runs no steps; leave it out, or {refused[0]}")
    refuse_file(cache)

    from ..interp.explain.choosing import choose, find

    found = find(typed.config, wanted)  # a wrong id is found before a large model is loaded
    opened = opened_model(typed.config.model, typed.config.tokenizer, typed.config.device)
    config = typed.with_blocks(opened.n_layers)
    chosen = choose(opened, found, config)

    from ..interp import Cache
    from ..interp.explain.explain_run import PAGE, explain_into, planned
    from ..models.lending import label
    from ..report.explain_page import page

    words = [*typed.again("interp"), "--explain", wanted, *([] if cache is None else ["--cache", str(cache)])]
    span = "none" if chosen.span is None else f"tokens {chosen.span[0]} to {chosen.span[1] - 1}"
    lines = [
        f"question: {wanted} of {chosen.dataset}, {len(chosen.tokens)} tokens",
        f"model: {label(opened)}",
        f"evidence: {span}, {chosen.evidence}",
    ]

    def work(at: At) -> Outcome:
        values = explain_into(
            at.folder, opened, chosen, config, cache=Cache(cache, warn=at.console.warn), fresh=at.fresh,
            observer=at.console, draw=lambda explanation: page(explanation, shlex.join(words)),
        )  # fmt: skip
        said = [*values["findings"].values(), f"\nopen {at.folder / PAGE} in a browser"]
        failed = "; ".join(f"{name}: {bad}" for name, bad in values["not_ok"].items())
        failure = f"rows that are not ok ({failed}); their reasons are in the tables in {at.folder}" if failed else None
        return Outcome({"out": str(at.folder), **values}, said, failure)

    return Run(
        work,
        folder=run_folder("explain", opened, re.sub(r"[^A-Za-z0-9_-]+", "-", wanted)),
        check=planned(opened, chosen, config).check,
        operations=None,  # a question is too little work for workers
        lines=lines,
        plan={"question": wanted, "evidence": chosen.span, "config": config.model_dump(mode="json")},
        prepare=partial(writable, caches=True, cache=cache),
    )


def _checking(typed: Typed[InterpConfig]) -> Typed[InterpConfig]:
    """What was typed, for the one step; UsageError beside --steps."""
    if "--steps" in typed.options():
        raise UsageError(f"--check runs the step {CHECK} alone; leave out --check or --steps")
    return typed.with_value("steps", CHECK)


def again_alone(typed: Typed[InterpConfig], step: str, cache: Path | None) -> str:
    """The command that runs one step, without a folder for its results, which may hold those of others, and without
    further models where it compares none: they would be refused."""
    from ..interp.engine.graph import in_order

    alone = typed.with_value("steps", step).without_out()
    if not any(needed.others for needed in in_order([step])):
        alone = alone.with_value("compare", None)
    return shlex.join(alone.again("interp") + ([] if cache is None else ["--cache", str(cache)]))


def failure_of(wanted: Sequence[str], done: Carried, fail_over: float | None, where: str) -> str | Exception | None:
    """Why the command ends with another code than 0: steps that failed, checks that failed, too many rows that did."""
    from ..interp.engine.statuses import FAIL_OVER, failed, failed_checks

    if done.failures and not any(name in done.results for name in wanted):
        first = next(iter(done.failures.values()))
        return first.error  # with its own code
    said = [str(failure) for failure in done.failures.values()]
    for name in (name for name in wanted if name in done.results):
        if reasons := failed_checks(done.results[name]):
            more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
            said.append(f"{name}: the model fails {len(reasons)} of its checks: {'; '.join(reasons[:3])}{more}")
    allowed = FAIL_OVER if fail_over is None else fail_over
    if too_many := failed(done.results, wanted, allowed):
        said.append(
            f"{'; '.join(too_many)}: more than the --fail-over {allowed:g} allows, or all of them; every row's status "
            f"is in the tables under {where}"
        )
    if not said:
        return None
    error = ToleranceError("; ".join(said))
    error.__cause__ = next((failure.error for failure in done.failures.values()), None)  # for -v
    return error


def plan_of(typed: Typed[InterpConfig], load: Callable[..., LanguageModel] | None = None) -> Plan:
    """The plan of what was typed: the steps, the items that they take, then the models, which `load` gives."""
    from ..interp import plan_steps
    from ..interp.engine.graph import in_order
    from ..interp.engine.inputs import Given, chosen_steps, read_missing
    from ..interp.engine.interp_config import settings_of
    from ..models.files.training_record import each_model

    config = typed.config
    name = named(config.model)
    compared = [one for listed in config.compare for one in each_model(listed)]
    steps = in_order(chosen_steps(config, others=len(compared)), settings=partial(settings_of, config))
    # a wrong file is found before a large model is loaded
    read = read_missing({step.items for step in steps}, config, Given())

    if load is None:
        from ..models import load
    assert load is not None
    opened = load(name, device=config.device, tokenizer=config.tokenizer)
    others = [load(one, device=config.device) for one in compared]
    for number, other in enumerate(others):  # the tokenizer that is named is for those that bring none
        if other.tokenizer is None and config.tokenizer is not None:
            others[number] = load(compared[number], device=config.device, tokenizer=config.tokenizer)
    return plan_steps(opened, config=typed.with_blocks(opened.n_layers), given=read, others=others)
