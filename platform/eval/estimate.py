"""How long an evaluation would take and what memory it needs, from answering one batch."""

from __future__ import annotations

from ..models.probe import Cost, answering_seconds, peak_bytes
from .planning import Plan


def estimate(plan: Plan) -> Cost:
    """The cost of `plan` in one process: batches of all conditions, each as long as one of middling prompts.

    Not counted: the search for channels, the texts of the price, likelihoods (a third to a half of the answers' time
    on the tiny models, less where answers are long), and what several workers save.
    """
    asked = sorted((p.tokens for name, p in plan.prompts.items() if name not in plan.refused), key=len)
    size = min(plan.config.batch_size, len(asked))
    middle = (len(asked) - size) // 2
    seconds = answering_seconds(plan.model, asked[middle : middle + size], plan.config.max_new_tokens)
    batches = plan.answers / size
    return Cost(
        seconds * batches,
        peak_bytes(plan.model.device),
        f"one batch of {size} prompts was answered in {seconds:.2g} s, times {batches:.1f} batches of all conditions; "
        "memory is the most that was held meanwhile",
    )
