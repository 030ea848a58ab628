"""`mplat eval`: does steering help, on questions it was not tuned on, against its controls, and at what price?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from .frame.command import command
from .frame.folders import run_folder, writable
from .frame.run import At, Outcome, Run, Typed
from .frame.where import forward_operations

if TYPE_CHECKING:
    from ..eval.eval_config import EvalConfig


@command("eval", order=44, config="eval.eval_config.EvalConfig")
def evaluate(typed: Typed[EvalConfig]) -> Run:
    """Evaluate steering: search on development questions, judge on test questions, with controls and price."""
    _refuse_contradictions(typed)
    from ..eval import matrix

    named = typed.config.steering.variant
    if matrix.several(named):
        return _several(typed)
    if named is not None and named.endswith(matrix.RECIPE_SUFFIX):
        typed = typed.with_value("variant", None).with_value("recipe", Path(named))

    from ..eval import in_words, runner
    from ..eval.asking import read_questions
    from ..eval.estimate import estimate
    from ..eval.planning import prepare, variant_and_model

    read_questions(typed.config)  # a wrong file is found before a large model is loaded
    _, opened = variant_and_model(typed.config)
    plan = prepare(typed.with_blocks(opened.n_layers), opened)
    config = plan.config

    def work(at: At) -> Outcome:
        result = runner.evaluate(plan, out=at.folder, session=at.session, fresh=at.fresh, observer=at.console)
        summary = result.summary
        failure = (
            f"{summary.bad_test_rows} of {summary.test_rows} test rows have no score, more than the --fail-over "
            f"{config.fail_over:g} allows; their status and reason are in {at.folder / 'items.parquet'}"
        )
        values = {
            "out": str(at.folder),
            "recipe": None if result.recipe is None else result.recipe.to_dict(),
            "bad_share": result.bad_share,
            "summary": summary.to_dict(),
        }
        failed = result.bad_share > config.fail_over
        return Outcome(values, in_words.result_words(result), failure if failed else None)

    return Run(
        work,
        folder=run_folder("eval", opened, config.questions),
        lines=in_words.plan_lines(plan),
        plan={"plan": in_words.plan_values(plan), "config": config.model_dump(mode="json")},
        check=runner.planned(plan).check,
        operations=forward_operations(plan.model, plan.tokens),
        device=str(plan.model.device),
        unit="answers",
        cost=partial(estimate, plan),
        prepare=partial(writable, caches=False),
    )


def _several(typed: Typed[EvalConfig]) -> Run:
    """Every steering that was named, each in a folder of its own."""
    from ..eval import in_words, matrix
    from ..eval.planning import prepare

    config = typed.config
    plans = {name: prepare(cell) for name, cell in matrix.cells(config).items()}
    wanted = matrix.Matrix(config, plans)

    def work(at: At) -> Outcome:
        found, rows = matrix.evaluate_all(
            wanted, out=at.folder, session=at.session, fresh=at.fresh, observer=at.console
        )
        bad = {name: result.bad_share for name, result in found.items() if result.bad_share > config.fail_over}
        failure = (
            f"too many test rows of {', '.join(bad)} have no score; their status and reason are in "
            f"{at.folder / 'cells'}/*/items.parquet"
        )
        return Outcome({"out": str(at.folder), "cells": rows}, matrix.in_words(rows), failure if bad else None)

    return Run(
        work,
        folder=Path("runs") / "eval-matrix",
        lines=[f"{name}: {line}" for name, plan in plans.items() for line in in_words.plan_lines(plan)[:3]],
        plan={"cells": {name: in_words.plan_values(plan) for name, plan in plans.items()}},
        check=matrix.planned(wanted).check,
        operations=sum(forward_operations(plan.model, plan.tokens) for plan in plans.values()),
        device=str(next(iter(plans.values())).model.device),
        unit="answers",
        prepare=partial(writable, caches=False),
    )


def _refuse_contradictions(typed: Typed[EvalConfig]) -> None:
    """UsageError for options that mean nothing beside the steering that was asked for."""
    steering, given = typed.config.steering, typed.options()
    if (steering.recipe or steering.edits) and {"--sites", "--layers", "--budget"} & {*given}:
        raise UsageError(
            "a stored recipe is judged as it is; leave out --sites, --layers and --budget, which search for one"
        )
    if steering.variant == "none":
        for option in ("--strength", "--sites", "--layers", "--recipe", "--edits", "--budget", "--robust"):
            if option in given:
                raise UsageError(f"{option} has no meaning with --steering none; leave one of them out")
