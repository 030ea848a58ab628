"""`mplat refine FILES --reference SMALL --teacher LARGE`: the part of a corpus that is worth training on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .frame.command import command
from .frame.folders import run_folder
from .frame.run import At, Outcome, Run, Typed
from .frame.where import forward_operations

if TYPE_CHECKING:
    from ..refine.refine_config import RefineConfig


@command("refine", order=28, config="refine.refine_config.RefineConfig")
def refine(typed: Typed[RefineConfig]) -> Run:
    """Keep the part of a corpus that a larger model predicts better than a small one."""
    from ..refine import in_words, refine_run
    from ..refine.estimate import estimate

    config = typed.config
    plan = refine_run.prepare(config)
    n_bytes = sum(document.n_bytes for document in plan.reading.documents)

    def work(at: At) -> Outcome:
        result = refine_run.refine(plan, out=at.folder, session=at.session, fresh=at.fresh, observer=at.console)
        for warning in in_words.after_warnings(plan, result):
            at.console.warn(warning)
        total = sum(result.status.values())
        failure = (
            f"{total - result.status.get('ok', 0)} of {total} chunks have no score, more than the --fail-over "
            f"{config.fail_over:g} allows; their status and reason are in {at.folder / 'scores.parquet'}"
        )
        values = {
            "out": str(at.folder),
            "score_per": plan.per,
            "threshold": result.threshold,
            "records": result.records,
            "nats_per_byte": result.nats_per_byte,
            "sets": {counts.name: counts.values() for counts in result.sets},
            "status": result.status,
        }
        words = [*in_words.result_words(plan, result), f"results: {at.folder}"]
        return Outcome(values, words, failure if result.bad_share > config.fail_over else None)

    return Run(
        work,
        folder=run_folder("refine", plan.teacher, config.data[0]),
        lines=in_words.plan_lines(plan),
        plan={"config": config.model_dump(mode="json"), "chunks": len(plan.chunks), "score_per": plan.per},
        check=refine_run.planned(plan).check,
        # no text has more tokens than bytes
        operations=forward_operations(plan.reference, n_bytes) + forward_operations(plan.teacher, n_bytes),
        device=str(plan.teacher.device),
        unit="chunks",
        warnings=in_words.warnings(plan),
        cost=partial(estimate, plan),
    )
