"""What a plan would cost: seconds and bytes of every step, from what the steps say of themselves and a measured probe.

A step counts its work in forward-token equivalents (`Effort.tokens`): how many tokens the model could have read
forwards in the time, in batches as they are planned. What one token takes here is measured by reading one batch with as
many threads as a worker has. That is an estimate of work in one process for a plan, no promise: it is meant to be right
within a factor of two. No result depends on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ...models.probe import Cost as Total
from ...models.probe import peak_bytes, reading_seconds
from ...runtime.threads import ThreadLimit
from ..methods.prompts import FactItem
from .effort import USUAL, passes
from .step import Asked, Effort, Kind

if TYPE_CHECKING:
    from .run import Plan


class StepCost(NamedTuple):
    """Of one step, in one process."""

    seconds: float
    bytes: float


class Estimate(NamedTuple):
    """steps: of each that is missing; total: of all of them."""

    steps: Mapping[str, StepCost]
    total: Total


def effort_of(plan: Plan, name: str) -> Effort:
    """What the step `name` of a plan is expected to take."""
    planned = plan.steps[name]
    step = planned.step
    upstream = {need: plan.steps[need].settings for need in planned.needs}
    others = [other.model for other in plan.others] if step.others else []
    asked = Asked(plan.model, plan.layers, planned.settings, upstream, others)
    return (step.cost or passes(USUAL))(asked, plan.inputs[step.items].lengths)


def tokens_of(plan: Plan, names: Collection[str]) -> float:
    """Forward-token equivalents of these steps."""
    return sum(effort_of(plan, name).tokens for name in names)


def estimate(plan: Plan, missing: Collection[str]) -> Estimate:
    """What the steps `missing` would cost here, from reading one batch of the items of each kind that they take."""
    efforts = {name: effort_of(plan, name) for name in plan.steps if name in missing}
    kinds: list[Kind] = list(dict.fromkeys(plan.steps[name].step.items for name in efforts))
    paces = {kind: _seconds_a_token(plan, kind) for kind in kinds}
    steps = {
        name: StepCost(effort.tokens * paces[plan.steps[name].step.items] + effort.seconds, effort.bytes)
        for name, effort in efforts.items()
    }
    read = ", ".join(f"a token of {kind} took {1e6 * pace:.3g} us" for kind, pace in paces.items())
    how = f"{read}, read forwards in a batch; times what each step says it reads" if read else "nothing is missing"
    total = Total(sum(cost.seconds for cost in steps.values()), peak_bytes(plan.model.device), how)
    return Estimate(steps, total)


def _seconds_a_token(plan: Plan, kind: Kind) -> float:
    """Of the batch in the middle of the plan, since batches are planned by length; filled up where there are too few
    items for a batch: runs of one item go through the model together too."""
    items, size = plan.inputs[kind].items, plan.config.batch_size
    batches = plan.inputs[kind].plan(size)
    middle = [_tokens(items[i]) for i in batches[len(batches) // 2].items]
    rows = list(islice(cycle(middle), size))
    limit = ThreadLimit(1)  # as many as a worker computes with
    try:
        return reading_seconds(plan.model, rows) / sum(map(len, rows))
    finally:
        limit.restore()


def _tokens(item: Any) -> Sequence[int]:
    """Of an item of any kind, what a prompt holds."""
    return item.tokens if isinstance(item, FactItem) else item.prompt
