"""Whether a state says what was said or how: facts of the facts world, each in two wordings.

A fact f of a relation is stated in wordings 1 and 2, and a sentence follows that is the same everywhere, because both
wordings end in the same name and a convolution's window would hold it. a_f and b_f are what the site holds after the
last token, less the mean of the wording over the relation's facts, so that what a wording does to all facts alike does
not count. Then

    same = |a_f - b_f|^2      other = mean over f' != f of |a_f - b_f'|^2      agreement = sum of other / sum of same

over facts: 1 where the state keeps nothing of the fact that both wordings share, more where it does.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ...datasets.facts.asked import Stated
from ...datasets.facts.names import entities
from ...datasets.facts.relations import RELATIONS, statements
from ...datasets.facts.world import Fact
from ...models.decoding.text import encode_text
from ...scoring.statistics import Difference, Estimate, Resampling, bootstrap_ratio, paired_difference
from ..engine.batches import Batch
from .position_content import sketch
from .watched_sites import watched_sites

if TYPE_CHECKING:
    from ...models import LanguageModel

Floats = NDArray[np.float64]
WORDINGS = 2
_VANISHED = 1e-12  # of a vector's squared length: a distance of rounding alone
BATCH_SCHEMA = pa.schema(
    [("relation", pa.string()), ("fact", pa.int32()), ("wording", pa.int32()), ("layer", pa.int32()),
     ("site", pa.string()), ("vector", pa.list_(pa.float64()))]
)  # fmt: skip


class Agreement(NamedTuple):
    """The ratio with its bootstrap interval over facts, and other less same in pairs."""

    ratio: Estimate
    difference: Difference


def paraphrases(model: LanguageModel, facts: int, seed: int) -> list[dict[str, Any]]:
    """Texts in tokens: {relation, fact, wording, tokens} of `facts` facts of every relation, of names that no other
    fact of it has, each before one more sentence. Raises UsageError and InputError where the model's tokenizer cannot
    read them."""
    names = entities("eval")
    rows: list[dict[str, Any]] = []
    assert model.tokenizer is not None
    for relation in RELATIONS.values():
        rng = random.Random(f"paraphrases {seed} {relation.name}")
        shapes = statements(relation.name, "eval")[:WORDINGS]
        subjects, objects = (rng.sample(names[kind], 2 * facts + 1) for kind in (relation.subject, relation.object))
        follows = Stated(Fact(relation.name, subjects.pop(), objects.pop()), shapes[0]).sentence
        pairs = [(s, o) for s, o in zip(subjects, objects, strict=True) if s != o][:facts]
        for number, pair in enumerate(pairs):
            for wording, shape in enumerate(shapes):
                text = f" {Stated(Fact(relation.name, *pair), shape).sentence} {follows}"
                tokens = list(encode_text(model.tokenizer, text).ids)
                rows.append({"relation": relation.name, "fact": number, "wording": wording, "tokens": tokens})
    return rows


@torch.no_grad()
def batch_states(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """What the watched sites hold after the last token of the texts that arguments["texts"] gives to each item."""
    sites = watched_sites(model, arguments["layers"], arguments["sites"])
    rows: list[dict[str, Any]] = []
    for text in (text for item in batch.items for text in arguments["texts"].get(item.id, ())):
        with model.capture(*[f"{name}@-1" for name in sites]) as captured:
            model(torch.tensor([text["tokens"]], device=batch.device), last_only=True)
        about = {name: text[name] for name in ("relation", "fact", "wording")}
        for name, (layer, site) in sites.items():
            vector = sketch(captured[name][:, 0].flatten(1).double().cpu())[0]
            finite = bool(torch.isfinite(vector).all())
            rows.append(about | {"layer": layer, "site": site, "vector": vector.numpy() if finite else None})
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def agreement(relations: Sequence[Floats], *, how: Resampling) -> Agreement | None:
    """relations: of each (facts, 2, C), one row a fact in its two wordings. None for fewer than two facts, and where
    nothing differs between wordings or between facts."""
    floor = _VANISHED * max((float((x**2).sum(-1).mean()) for x in relations), default=0.0)
    same: list[float] = []
    other: list[float] = []
    for x in relations:
        a, b = (x[:, wording] - x[:, wording].mean(0) for wording in range(WORDINGS))
        distances = ((a[:, None] - b[None]) ** 2).sum(-1)
        n = len(x)
        if n > 1:
            same += distances.diagonal().tolist()
            other += ((distances.sum(1) - distances.diagonal()) / (n - 1)).tolist()
    if len(same) < 2 or max(other) <= floor or min(same) <= 0:
        return None
    options: dict[str, Any] = {"seed": how.seed, "confidence": how.confidence, "n_resamples": how.resamples}
    return Agreement(bootstrap_ratio(other, same, **options), paired_difference(other, same, **options, shares=False))
