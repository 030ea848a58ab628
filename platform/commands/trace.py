"""`mplat trace`: what in a model carries an answer, by restoring clean values into corrupted runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .frame.command import command
from .frame.folders import run_folder, writable
from .frame.run import At, Outcome, Run, Typed
from .frame.where import forward_operations

if TYPE_CHECKING:
    from ..interp.methods.trace_config import TraceConfig


@command("trace", order=42, config="interp.methods.trace_config.TraceConfig")
def trace(typed: Typed[TraceConfig]) -> Run:
    """Trace answers: which site, layer and token brings the clean answer back into a corrupted run."""
    from ..interp.methods.trace_config import check_settings

    config = typed.config
    check_settings(config)

    from ..interp import Cache
    from ..interp.methods import trace_in_words as words
    from ..interp.methods.facts_source import read_facts
    from ..interp.methods.trace_folder import planned, run_trace
    from ..interp.methods.trace_plan import prepare
    from ..models import load
    from ..report.trace_pictures import draw

    read = None if config.facts is None else read_facts(config)  # a wrong file is found before a model is loaded
    assert config.model is not None
    opened = load(config.model, config.device, config.dtype, tokenizer=config.tokenizer)
    plan = prepare(typed.with_blocks(opened.n_layers), opened, None if read is None else read.prompts)

    def work(at: At) -> Outcome:
        store = Cache(warn=at.console.warn)
        result = run_trace(
            plan, out=at.folder, session=at.session, fresh=at.fresh, cache=store, observer=at.console, draw=draw
        )
        values = words.result_values(plan, result)
        return Outcome(values, words.result_words(plan, result), words.failure(plan, result))

    longest = max(len(item.tokens) for item in plan.items)
    return Run(
        work,
        folder=run_folder("trace", opened, config.facts),
        check=planned(plan).check,
        operations=forward_operations(plan.model, plan.restorations * longest),
        device=str(plan.model.device),
        lines=words.plan_lines(plan),
        plan={"plan": words.plan_values(plan), "config": plan.config.model_dump(mode="json")},
        unit="prompts",
        warnings=() if read is None else read.notes,
        prepare=partial(writable, caches=True),
    )
