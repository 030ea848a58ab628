"""`mplat interp`: analyses of a model on questions, each computed once and cached."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UsageError
from .frame.command import command
from .frame.folders import refuse_file, writable
from .frame.models import named
from .frame.options import CacheFolder
from .frame.run import At, Outcome, Run, Typed
from .frame.where import forward_operations

if TYPE_CHECKING:
    from ..interp import InterpConfig, Plan

PASSES = 10  # of a step over a prompt, about


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
) -> Run:
    """Analyse a model: activations, sensitivity, attribution, bottlenecks. What is cached is not computed again."""
    if fail_over is not None and not 0 <= fail_over <= 1:
        raise UsageError(f"--fail-over {fail_over:g}: a share lies between 0 and 1")
    plan, out, fresh = plan_of(typed), typed.shared.out, typed.shared.fresh

    from ..interp import Cache, run_plan
    from ..interp.engine import in_words
    from ..interp.engine.run_record import INPUTS, planned, run_into
    from ..interp.engine.statuses import FAIL_OVER, failed
    from ..runtime.record import read_run

    refuse_file(cache)
    store = Cache(cache, warn=typed.output.warn)
    missing = [name for name in plan.steps if fresh or store.find(name, plan.steps[name].key.digest) is None]
    if plan.left_out:
        left_out = ", ".join(plan.left_out)
        typed.output.say(f"not run, since nobody named them or the prompts and models they take: {left_out}")

    def work(at: At) -> Outcome:
        if out is None:
            results = run_plan(plan, cache=store, session=at.session, fresh=fresh, observer=at.console)
        else:
            results = run_into(out, plan, cache=store, session=at.session, fresh=fresh, observer=at.console)
        files = [] if out is None else [name for name in read_run(out).files if name not in INPUTS.values()]
        values = in_words.result_values(plan, results, store.folder) | {"out": None if out is None else str(out)}
        words = in_words.result_words(plan, results)
        words += [f"\ntables: {', '.join(files)} in {out}"] if files else []
        allowed = FAIL_OVER if fail_over is None else fail_over
        too_many = failed(results, plan.wanted, allowed)
        failure = (
            f"{'; '.join(too_many)}: more than the --fail-over {allowed:g} allows, or all of them; every row's status "
            f"is in the tables under {store.folder if out is None else out}"
        )
        return Outcome(values, words, failure if too_many else None)

    left_out = [f"question {e.id!r} is left out, {e.status}: {e.reason}" for e in plan.data.excluded]
    return Run(
        work,
        folder=None,
        check=planned(plan).check,
        # a step reads every prompt a few times, forwards and backwards
        operations=forward_operations(plan.model, PASSES * sum(plan.data.lengths)) * len(missing),
        lines=in_words.plan_words(plan, missing, store.folder),
        plan=in_words.plan_values(plan, missing, store.folder),
        says_lines=False,
        unit="prompts",
        warnings=[*left_out, *plan.notes],
        prepare=partial(writable, caches=True, cache=cache),
    )


def plan_of(typed: Typed[InterpConfig]) -> Plan:
    """The plan of what was typed: the steps, the items that they take, then the models."""
    from ..interp import plan_steps
    from ..interp.engine.graph import in_order
    from ..interp.engine.inputs import Given, chosen_steps, read_missing
    from ..models.files.training_record import each_model

    config = typed.config
    name = named(config.model)
    compared = [one for listed in config.compare for one in each_model(listed)]
    steps = in_order(chosen_steps(config, others=len(compared)))
    # a wrong file is found before a large model is loaded
    read = read_missing({step.items for step in steps}, config, Given())

    from ..models import load

    opened = load(name, tokenizer=config.tokenizer)
    others = [load(one) for one in compared]
    for number, other in enumerate(others):  # the tokenizer that is named is for those that bring none
        if other.tokenizer is None and config.tokenizer is not None:
            others[number] = load(compared[number], tokenizer=config.tokenizer)
    return plan_steps(opened, config=typed.with_blocks(opened.n_layers), given=read, others=others)
