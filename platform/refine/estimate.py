"""How long a refinement would take and what memory it needs, from reading one batch with each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..models.decoding.scored_texts import first_token
from ..models.decoding.text import encode_text
from ..models.probe import Cost, peak_bytes, reading_seconds
from .refine_run import RefinePlan

if TYPE_CHECKING:
    from ..models import LanguageModel


def estimate(plan: RefinePlan) -> Cost:
    """The cost of `plan` in one process: as many batches as there are, each as long as the middling one."""
    by_length = sorted((chunk.text for chunk in plan.chunks), key=lambda text: len(text.encode()))
    size = min(plan.config.batch_size, len(by_length))
    middle = (len(by_length) - size) // 2
    batch = by_length[middle : middle + size]
    models = {"reference": plan.reference} if plan.same_model else {
        "reference": plan.reference, "teacher": plan.teacher
    }  # fmt: skip
    seconds = {role: reading_seconds(model, _rows(model, batch)) for role, model in models.items()}
    times = len(plan.chunks) / size
    read = " and ".join(f"by the {role} in {taken:.2g} s" for role, taken in seconds.items())
    return Cost(
        sum(seconds.values()) * times,
        peak_bytes(plan.teacher.device),
        f"one batch of {size} chunks was read {read}, times {times:,.1f} batches; memory is the most that was held "
        "meanwhile",
    )


def _rows(model: LanguageModel, texts: list[str]) -> list[list[int]]:
    assert model.tokenizer is not None
    return [[first_token(model), *encode_text(model.tokenizer, text).ids] for text in texts]
