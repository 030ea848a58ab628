"""`mplat perplexity DATA`: how well a model predicts the documents of The Pile, set by set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .frame.command import command
from .frame.folders import run_folder
from .frame.run import At, Outcome, Run, Typed
from .frame.where import forward_operations

if TYPE_CHECKING:
    from ..perplexity.perplexity_config import PerplexityConfig


@command("perplexity", order=46, config="perplexity.perplexity_config.PerplexityConfig")
def perplexity(
    typed: Typed[PerplexityConfig],
    per_set: Annotated[bool, typer.Option("--per-set/--overall", help="Show every set, or only all together.")] = True,
) -> Run:
    """Measure bits per byte and perplexity of whole documents, per set of The Pile."""
    from ..perplexity import in_words, perplexity_run
    from ..perplexity.perplexity_summary import set_values

    config = typed.config
    plan = perplexity_run.prepare(config)
    account = perplexity_run.report_values(plan.reading.report)

    def work(at: At) -> Outcome:
        result = perplexity_run.measure(plan, out=at.folder, session=at.session, fresh=at.fresh, observer=at.console)
        shown = result.sets if per_set else result.sets[-1:]
        total = sum(result.status.values())
        failure = (
            f"{total - result.status.get('ok', 0)} of {total} documents have no value, more than the --fail-over "
            f"{config.fail_over:g} allows; their status and reason are in {at.folder / 'documents.parquet'}"
        )
        values = {
            "out": str(at.folder),
            "method": config.method,
            "window": plan.window,
            "sets": [set_values(of_set) for of_set in shown],
            "status": result.status,
            "data": account,
        }
        words = [*in_words.result_words(plan, shown), f"results: {at.folder}"]
        return Outcome(values, words, failure if result.bad_share > config.fail_over else None)

    return Run(
        work,
        folder=run_folder("perplexity", plan.model, config.data),
        lines=in_words.plan_lines(plan),
        plan={"data": account, "config": config.model_dump(mode="json")},
        check=perplexity_run.planned(plan).check,
        # no text has more tokens than bytes
        operations=forward_operations(plan.model, sum(document.n_bytes for document in plan.reading.documents)),
        device=str(plan.model.device),
        unit="documents",
        warnings=in_words.warnings(plan),
    )
