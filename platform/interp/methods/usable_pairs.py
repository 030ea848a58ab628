"""The pairs of the facts world that a model can be asked about, and what they are, as rows."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...core.errors import InputError
from ..engine.columns import column
from .counterfactuals import Pair, pairs_of_facts
from .interchange import answered
from .table import token_labels

if TYPE_CHECKING:
    from ...datasets.facts.counterfactuals import Part, Variable
    from ...models import LanguageModel

_AT_ONCE = 64

PAIRS_SCHEMA = pa.schema([
    column("id", pa.string(), "of the pair"),
    column("variable", pa.string(), "in which the source's value is set"),
    column("part", pa.string(), "train: learned and chosen on; test: judged on; none of them share a name"),
    column("group", pa.string(), "the base's head entity"),
    column("base", pa.string(), "the prompt that is run"),
    column("source", pa.string(), "the prompt that the exchanged value comes from"),
    column("answer", pa.string(), "first token of the counterfactual answer"),
    column("base_answer", pa.string(), "of the base's own"),
    column("source_answer", pa.string(), "of the source's"),
])  # fmt: skip


def usable_pairs(
    model: LanguageModel, variable: Variable, part: Part, *, wanted: int, drawn: int, correct_only: bool, seed: int
) -> list[Pair]:
    """The first `wanted` pairs, of `drawn` times as many at most; with `correct_only` those of which the model answers
    base, source and counterfactual prompt right, perhaps fewer.

    Raises InputError for a model without tokenizer, and where its tokenizer makes no pairs of equal length.
    """
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer for the prompts")
    found: list[Pair] = []
    source = islice(pairs_of_facts(model.tokenizer, variable, part, seed), wanted * drawn)
    while len(found) < wanted and (some := list(islice(source, _AT_ONCE))):
        right = answered(model, some) if correct_only else [True] * len(some)
        found += [pair for pair, good in zip(some, right, strict=True) if good]
    return found[:wanted]


def pair_row(model: LanguageModel, variable: str, part: str, pair: Pair) -> dict[str, Any]:
    """A row of `PAIRS_SCHEMA`."""
    target, base, source = token_labels(model, list(pair.answers))
    return {
        "id": pair.id, "variable": variable, "part": part, "group": pair.group, "base": pair.texts[0],
        "source": pair.texts[1], "answer": target, "base_answer": base, "source_answer": source,
    }  # fmt: skip
