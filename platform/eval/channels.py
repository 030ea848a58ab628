"""Where an evaluation gets its channels from: the analysis stage, on the development questions, through its cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..datasets.records import Question
    from ..steering.discovery import FindChannels
    from .planning import Plan


def development_questions(plan: Plan) -> list[Question]:
    """The plan's development questions that the model can be asked."""
    return [question for question in plan.development if question.id not in plan.refused]


def bottleneck_finder(plan: Plan, cache_dir: Path, say: Callable[[str], None] | None = None) -> FindChannels:
    """Channels of largest attribution on the development questions; `say` is told once what is not cached yet."""
    from ..interp import bottleneck_channels

    questions = development_questions(plan)
    told: set[str] = set()

    def tell(what: str, done: int, total: int) -> None:
        if say is not None and what not in told:
            told.add(what)
            say(f"not in the cache {cache_dir}, computed now: {what}")

    def find(site: str, layer: int, k: int) -> list[int]:
        return bottleneck_channels(
            plan.model,
            questions,
            layer=layer,
            site=site,
            k=k,
            cache_dir=cache_dir,
            seed=plan.config.seed,
            progress=tell,
        )

    return find
