"""Further models of a run: which steps are given them, and what each of them reads of the items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...core.errors import InputError, UsageError
from .encoded import Encoded
from .inputs import Given, encode_kind
from .interp_config import InterpConfig
from .step import Kind, Step

if TYPE_CHECKING:
    from ...models import LanguageModel


class OtherModel(NamedTuple):
    """A further model, with the items of each kind in its own tokens."""

    model: LanguageModel
    inputs: Mapping[Kind, Encoded]


def check_others(steps: Sequence[Step], others: int) -> None:
    """Raises UsageError where a step cannot be given so many models beside the analysed one, or no step takes any."""
    for step in steps:
        if step.others and not step.takes(others):
            roles = ", ".join("any number more" if role is ... else role for role in step.others)
            raise UsageError(
                f"{step.name}: takes further models ({roles}), and {others} are named; name them with --compare A,B"
            )
    if others and not any(step.others for step in steps):
        raise UsageError(f"compare names {others} models, and none of the steps compares models; leave it out")


def read_by(other: LanguageModel, given: Given, config: InterpConfig, inputs: Mapping[Kind, Encoded]) -> OtherModel:
    """`other` with the items in the tokens of its tokenizer; without one, such as a checkpoint of a training run, it is
    given those of the analysed model, `inputs`.

    Raises InputError where its vocabulary does not hold these, and as `inputs.encode_kind` does.
    """
    if other.tokenizer is not None:
        return OtherModel(other, {kind: encode_kind(kind, other, config, given) for kind in inputs})
    highest = max(item.highest_token for data in inputs.values() for item in data.items)
    if highest >= other.config.vocab_size:
        raise InputError(
            f"{other.name}: has no tokenizer, and its vocabulary of {other.config.vocab_size} does not hold token "
            f"{highest} of the analysed model's; name a tokenizer with --tokenizer"
        )
    return OtherModel(other, inputs)
