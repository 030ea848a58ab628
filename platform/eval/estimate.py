"""How long an evaluation would take and what memory it needs, from answering one batch and scoring another."""

from __future__ import annotations

import time

from ..models.probe import Cost, answering_seconds, peak_bytes
from ..steering.answered import batches, score_all, tokens_of
from ..steering.effort import SCORED, screened
from .planning import Plan


def estimate(plan: Plan) -> Cost:
    """The cost of `plan` in one process: batches of all conditions, each as long as one of middling prompts; and the
    search, as if it read all that it may, while many end half-way.

    Not counted: searches on shuffled answers, which only a recipe makes necessary, the texts of the price, likelihoods
    (a third to a half of the answers' time on the tiny models, less where answers are long), and what several workers
    save.
    """
    asked = sorted((p.tokens for name, p in plan.prompts.items() if name not in plan.refused), key=len)
    size = min(plan.config.batch_size, len(asked))
    middle = (len(asked) - size) // 2
    seconds = answering_seconds(plan.model, asked[middle : middle + size], plan.config.max_new_tokens)
    times = plan.answers / size
    searching = _search_seconds(plan)
    said = f"; the search reads at most {plan.search.tokens:,} tokens, {searching:.0f} s of it" if plan.search else ""
    return Cost(
        seconds * times + searching,
        peak_bytes(plan.model.device),
        f"one batch of {size} prompts was answered in {seconds:.2g} s, times {times:.1f} batches of all conditions"
        f"{said}; memory is the most that was held meanwhile",
    )


def _search_seconds(plan: Plan) -> float:
    """Of all tokens that the search may read, at the pace of scoring some of its questions; 0 without a search."""
    if plan.search is None:
        return 0.0
    items = screened(plan.search.items, SCORED)
    asked = batches(items, SCORED, plan.model.device)
    score_all(plan.model, asked)  # compiles what is compiled
    started = time.perf_counter()
    score_all(plan.model, asked)
    return (time.perf_counter() - started) / tokens_of(items) * plan.search.tokens
