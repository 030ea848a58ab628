"""The analyses of a quickstart: interp steps on the development questions of an evaluation, kept beside their record.

The results come from the cache of steps or go into it. The evaluation that follows asks for channels to steer,
which come from the same cache: nothing is computed for it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.observer import Observer
    from ..eval.planning import Plan
    from ..runtime import Session


def look_inside(
    plan: Plan,
    steps: Sequence[str],
    *,
    out: Path,
    session: Session,
    cache_dir: Path,
    fresh: bool,
    observer: Observer,
) -> str:
    """Run `steps` for the plan's model on its development questions; what came out, in words."""
    from ..interp import Cache, config_model, plan_steps
    from ..interp.engine.graph import in_order
    from ..interp.engine.run_record import run_into

    questions = plan.asked_in_development

    # What a step needs is named too: a second run, which needs nothing, then keeps the same tables as the first.
    names = tuple(step.name for step in in_order(steps))
    config = config_model().model_validate({"steps": names, "seed": plan.config.seed})
    planned = plan_steps(plan.model, questions, config)
    cache = Cache(cache_dir, warn=observer.warn)
    # a part of the quickstart, which has checked its folder
    done = run_into(out, planned, cache=cache, session=session, fresh=fresh, replace=True, observer=observer)
    results = done.whole()
    computed = sum(result.seconds is not None for result in results.values())
    return f"{len(results)} steps on {len(questions)} development questions, {len(results) - computed} cached"
