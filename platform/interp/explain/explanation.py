"""Everything that is found out about one question, as tables: `explain`.

Where a table's place stands empty, `absent` says why, in one sentence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import torch

from ...core.observer import Observer
from ..engine.cache import Cache
from ..engine.places import check_layers
from ..methods.asked import check_finite, evaluating
from ..methods.table import token_labels
from ..methods.typed_tensors import ints
from .choosing import Chosen
from .feature_rows import cached_autoencoders, feature_table
from .reading_rows import reading_tables
from .state_rows import state_tables
from .traced_rows import lens_table, traced_table

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ..engine.interp_config import InterpConfig

_OF_EVIDENCE = ("left", "states", "cuts", "readers", "traces")


class Answer(NamedTuple):
    """What the model says behind the prompt: the right answer's first token and the most probable one, their
    probabilities, and the rank of the former (1: it is the most probable)."""

    token: str
    p: float
    rank: int
    said: str
    said_p: float

    @property
    def right(self) -> bool:
        """Whether the most probable token is the answer's first."""
        return self.rank == 1


@dataclass(frozen=True)
class Explanation:
    """tables: by name. absent: name of a table -> why there is none."""

    model: LanguageModel
    chosen: Chosen
    config: InterpConfig
    layers: tuple[int, ...]
    answer: Answer
    tables: Mapping[str, pa.Table]
    absent: Mapping[str, str]


def explain(
    model: LanguageModel, chosen: Chosen, config: InterpConfig, *, cache: Cache, observer: Observer | None = None
) -> Explanation:
    """What `model` does with the question. cache: where trained autoencoders are looked for.

    Raises UsageError for layers that the model lacks, InputError where its logits are not finite.
    """
    observer = Observer() if observer is None else observer
    layers = check_layers(config.layers, model.n_layers)
    answer = _answer(model, chosen)
    tables: dict[str, pa.Table] = {}
    absent: dict[str, str] = {}

    def part(name: str, detail: str, make: Callable[[], Mapping[str, pa.Table]]) -> None:
        start = time.monotonic()
        observer.begin(name, detail)
        made = make()
        tables.update(made)
        observer.end(name, f"{sum(table.num_rows for table in made.values())} rows", time.monotonic() - start)

    part("states", "what is written and what is left of it", lambda: state_tables(model, chosen, layers))
    part("reading", "hidden attention and knock-out", lambda: reading_tables(model, chosen, layers))
    part("lens", "the residual stream read out", lambda: {"lens": lens_table(model, chosen, layers, config)})
    if chosen.span is None:
        absent |= dict.fromkeys(_OF_EVIDENCE, chosen.evidence)
    else:
        part("trace", "restoring what the blocks hold", lambda: {"traces": traced_table(model, chosen, layers, config)})
    stored = cached_autoencoders(cache, model)
    if stored is None:
        how = f"`mplat interp --model {model.name} --steps sae` trains some"
        absent["features"] = f"the cache holds no sparse autoencoder of this model; {how}"
    else:
        part("features", "autoencoders from the cache", lambda: {"features": feature_table(model, chosen, stored)})
    return Explanation(model, chosen, config, layers, answer, tables, absent)


@torch.no_grad()
def _answer(model: LanguageModel, chosen: Chosen) -> Answer:
    tokens = torch.tensor(chosen.item.prompt, device=model.device)
    with evaluating(model):
        logits = model(tokens[None], last_only=True)[0, -1]
    check_finite(model, logits)
    p = torch.softmax(logits.double(), -1)
    target, said = chosen.item.answer[0], int(logits.argmax())
    token, most = token_labels(model, [target, said])
    rank = 1 + ints((logits > logits[target]).sum()[None])[0]
    return Answer(token, float(p[target]), rank, most, float(p[said]))
