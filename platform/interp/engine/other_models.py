"""Further models of a run: which steps are given them, and what each of them reads of the questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...core.errors import InputError, UsageError
from .interp_config import InterpConfig
from .questions import Encoded, encode
from .step import Step

if TYPE_CHECKING:
    from ...datasets.records import Question
    from ...models import LanguageModel


class OtherModel(NamedTuple):
    """A further model, with the questions in its own tokens."""

    model: LanguageModel
    data: Encoded


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


def read_by(other: LanguageModel, questions: Sequence[Question], config: InterpConfig, data: Encoded) -> OtherModel:
    """`other` with the questions in the tokens of its tokenizer; without one, such as a checkpoint of a training run,
    it is given those of the analysed model, `data`.

    Raises InputError where its vocabulary does not hold these, and as `questions.encode` does.
    """
    if other.tokenizer is not None:
        read = encode(other, questions, max_tokens=config.max_tokens, template=config.template)
        return OtherModel(other, read)
    highest = max(max((*item.prompt, *item.answer)) for item in data.items)
    if highest >= other.config.vocab_size:
        raise InputError(
            f"{other.name}: has no tokenizer, and its vocabulary of {other.config.vocab_size} does not hold token "
            f"{highest} of the analysed model's; name a tokenizer with --tokenizer"
        )
    return OtherModel(other, data)
