"""Further models of a run: which steps are given them, and that all of them read the questions alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...core.errors import InputError, UsageError
from .interp_config import InterpConfig
from .questions import Encoded, encode
from .step import Step

if TYPE_CHECKING:
    from ...datasets.records import Question
    from ...models import LanguageModel


def check_others(steps: Sequence[Step], others: int) -> None:
    """Raises UsageError where a step cannot be given so many models beside the analysed one, or no step takes any."""
    for step in steps:
        if step.others and not step.takes(others):
            roles = ", ".join("any number more" if role is ... else role for role in step.others)
            raise UsageError(
                f"{step.name}: takes further models ({roles}), and {others} are named; "
                "name them with --set compare='[A, B]'"
            )
    if others and not any(step.others for step in steps):
        raise UsageError(f"compare names {others} models, and none of the steps compares models; leave it out")


def check_same_tokens(
    model: LanguageModel, other: LanguageModel, questions: Sequence[Question], config: InterpConfig, data: Encoded
) -> None:
    """Raises InputError where `other` would be given token ids that mean something else to it.

    A model without a tokenizer, such as a checkpoint of a training run, is taken at its word; its vocabulary has to
    hold the ids.
    """
    if other.tokenizer is not None:
        read = encode(other, questions, max_tokens=config.max_tokens, template=config.template)
        if read.digest != data.digest:
            raise InputError(f"{model.name} and {other.name} read the questions as different tokens; compare models "
                             "that share a tokenizer")  # fmt: skip
    highest = max(max((*item.prompt, *item.answer)) for item in data.items)
    if highest >= other.config.vocab_size:
        raise InputError(f"{other.name}: its vocabulary of {other.config.vocab_size} has no token {highest}, which "
                         f"{model.name} reads in the questions")  # fmt: skip
