"""`mplat compare MODEL MODEL...`: models side by side on the same questions and the same facts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UsageError
from .frame.command import command
from .frame.folders import refuse_file, writable
from .frame.options import CacheFolder
from .frame.run import At, Outcome, Run, Typed
from .frame.where import forward_operations

if TYPE_CHECKING:
    from ..interp import InterpConfig, Plan

OVERVIEW, TRACES = "model_overview", "model_comparison"  # the analyses that are made where none is named
FACTS = 10  # generated ones that are traced where nobody says how many: each takes seconds in every model
PASSES = 20  # of an analysis over a prompt, about, in each model


@command("compare", order=43, config="interp.engine.interp_config.config_model", without=("--model", "--compare"))
def compare(
    typed: Typed[InterpConfig],
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL MODEL...", help="Shipped models, folders, hub ids, MODEL:RECIPE; at least two."),
    ],
    cache: CacheFolder = None,
) -> Run:
    """Put models side by side: size, state, right answers, and what in them carries an answer.

    --steps all adds features and activations that are the same in both, and circuits that they share. Of facts, ten
    generated ones are traced unless --facts or --limit says otherwise.
    """
    plan = plan_of(typed, models)
    out, fresh = typed.shared.out, typed.shared.fresh

    from ..interp import Cache, run_plan
    from ..interp.engine import in_words
    from ..interp.engine.run_record import INPUTS, planned, run_into
    from ..interp.engine.statuses import FAIL_OVER, failed
    from ..interp.methods import models_in_words as words
    from ..runtime.record import read_run

    refuse_file(cache)
    store = Cache(cache, warn=typed.output.warn)
    missing = [name for name in plan.steps if fresh or store.find(name, plan.steps[name].key.digest) is None]
    named = [one.name for one in (plan.model, *(other.model for other in plan.others))]

    def work(at: At) -> Outcome:
        if out is None:
            results = run_plan(plan, cache=store, session=at.session, fresh=fresh, observer=at.console)
        else:
            run_into(
                out, plan, cache=store, session=at.session, fresh=fresh, observer=at.console, command="compare"
            )  # fmt: skip
            results = run_plan(plan, cache=store, session=at.session)  # read again, from the cache
        tables = {name: result.tables for name, result in results.items()}
        files = [] if out is None else [name for name in read_run(out).files if name not in INPUTS.values()]
        shown = words.in_words(tables)
        shown += [f"\ntables: {', '.join(files)} in {out}"] if files else []
        values = words.values(tables) | {
            "models": named,
            "questions": len(plan.data.items),
            "steps": [
                {
                    "step": name,
                    "key": result.key,
                    "rows": result.rows,
                    "not_ok": result.bad,
                    "folder": str(store.folder / name / result.key),
                }
                for name, result in results.items()
            ],
            "out": None if out is None else str(out),
        }
        too_many = failed(results, plan.wanted, FAIL_OVER)
        where = store.folder if out is None else out
        failure = f"{'; '.join(too_many)}; every row's status is in the tables under {where}"
        return Outcome(values, shown, failure if too_many else None)

    tokens = sum(plan.data.lengths)
    each = [plan.model, *(other.model for other in plan.others)]
    return Run(
        work,
        folder=None,
        check=planned(plan, "compare").check,
        operations=sum(forward_operations(one, PASSES * tokens) for one in each) * len(missing),
        device=str(plan.model.device),
        lines=[f"models: {', '.join(named)}", *in_words.plan_words(plan, missing, store.folder)[1:]],
        plan={"models": named} | in_words.plan_values(plan, missing, store.folder),
        says_lines=False,
        unit="prompts",
        warnings=[f"question {e.id!r} is left out, {e.status}: {e.reason}" for e in plan.data.excluded],
        prepare=partial(writable, caches=True, cache=cache),
    )


def plan_of(typed: Typed[InterpConfig], models: list[str]) -> Plan:
    """The analyses that compare, of the first model with the others.

    Raises UsageError for fewer than two models and for analyses that compare none; InputError for models and files that
    are not there.
    """
    if len(models) < 2:
        raise UsageError(f"compare: {models[0]} is one model; name two or more, such as `mplat compare {models[0]} B`")

    from ..interp import all_steps, plan_steps
    from ..interp.engine.graph import in_order
    from ..interp.engine.inputs import Given, read_missing
    from ..models import load

    known = all_steps()
    comparing = [name for name, step in known.items() if step.others and step.takes(len(models) - 1)]
    asked = typed.values.get("steps")
    if asked is None or asked.strip() == "all":
        asked = ",".join([OVERVIEW, TRACES] if asked is None else comparing)
    typed = typed.with_value("steps", asked).with_value("model", models[0]).with_value("compare", ",".join(models[1:]))
    if typed.config.facts is None and typed.config.limit is None:
        typed = typed.with_value("limit", FACTS)
    config = typed.config
    for name in config.steps or ():
        if not known[name].others:
            raise UsageError(f"--steps {name}: looks at one model; those that compare: {', '.join(sorted(comparing))}")
    # a wrong file is found before a large model is loaded
    read = read_missing({step.items for step in in_order(config.steps)}, config, Given())
    first = load(models[0], device=config.device, tokenizer=config.tokenizer)
    others = [load(name, device=config.device) for name in models[1:]]
    for number, other in enumerate(others, 1):  # the tokenizer that is named is for those that bring none
        if other.tokenizer is None and config.tokenizer is not None:
            others[number - 1] = load(models[number], device=config.device, tokenizer=config.tokenizer)
    return plan_steps(first, config=typed.with_blocks(first.n_layers), given=read, others=others)
