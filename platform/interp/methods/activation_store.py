"""Reading the activation store: what the step `collect` wrote, by site, layer and token.

    store = Store.of(job)                                    # of a step with needs=("collect",)
    baseline = Store.of(job, weights="shuffled")             # the same tokens in a model that learned nothing
    place = store.place(layer=2, site="resid_post")
    for start, x in store.batches(place, 4096): ...          # (n, width) float32, in the order of the tokens
    x = store.values(place, rows)                            # these tokens, in this order
    store.tokens                                             # a row for each of them: question, position, token, labels

Values are read from the pages of the shards' files: what is held is what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import InputError, UsageError
from ..engine.tensor_parts import StoredTensors
from .shards import SHARD

if TYPE_CHECKING:
    from ..engine.step import Job, Tables, Tensors

MOMENTS = "moments"  # the part with mean and std of every place
Weights = Literal["trained", "shuffled"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)


def stored_name(name: str, weights: Weights) -> str:
    """What a site's tensor is called in every shard."""
    return name if weights == "trained" else f"{weights}/{name}"


class Stored(NamedTuple):
    """A site of one block in the store. name: of its tensor in every shard. shape: of one token's value, flattened to
    `width` numbers."""

    layer: int
    site: str
    name: str
    shape: tuple[int, ...]
    width: int


class Activations(Protocol):
    """What a reader of activations needs: `Store`, or a stand-in."""

    @property
    def tokens(self) -> pa.Table: ...

    @property
    def places(self) -> Sequence[Stored]: ...

    def values(self, place: Stored, rows: Sequence[int] | NDArray[np.int64] | Tensor | None = None) -> Tensor: ...

    def batches(self, place: Stored, size: int) -> Iterator[tuple[int, Tensor]]: ...


@dataclass(frozen=True)
class Store:
    """The activation store. tokens: those that are stored, a row each, in order (`collect.TOKENS_SCHEMA`). places: what
    was stored of them."""

    tokens: pa.Table
    places: tuple[Stored, ...]
    shards: tuple[Mapping[str, Tensor], ...]
    starts: tuple[int, ...]  # row of each shard's first token, and behind the last
    moments: Mapping[str, Tensor]

    @classmethod
    def of(cls, job: Job, weights: Weights = "trained") -> Store:
        """The store that a step gets from `collect`, which it needs."""
        return cls.read(job.upstream["collect"], job.upstream_tensors["collect"], weights)

    @classmethod
    def read(cls, tables: Tables, tensors: Mapping[str, Tensors], weights: Weights = "trained") -> Store:
        """The store in the tables and tensors of `collect`.

        Raises UsageError where it has no baseline, InputError where tensors and table do not belong together.
        """
        tokens = tables["tokens"]
        tokens = tokens.filter(pc.is_valid(tokens["row"]))
        places = tuple(
            Stored(row["layer"], row["site"], row["tensor"], tuple(row["shape"]), row["width"])
            for row in tables["places"].to_pylist() if row["weights"] == weights
        )  # fmt: skip
        if not places:
            raise UsageError(f"the activation store has none of {weights} weights; set collect.baseline=true")
        shards = tuple(tensors[name] for name in sorted(tensors) if name.startswith(SHARD))
        lengths = [len(_view(shard, places[0].name)) for shard in shards] if places else []
        starts = tuple(np.cumsum([0, *lengths]).tolist())
        if starts[-1] != tokens.num_rows:
            raise InputError(f"the activation store holds {starts[-1]} tokens and names {tokens.num_rows}")
        return cls(tokens, places, shards, starts, tensors.get(MOMENTS, {}))

    def __len__(self) -> int:
        return self.starts[-1]

    def place(self, layer: int, site: str) -> Stored:
        """The site of a block. Raises UsageError naming what is stored for one that is not."""
        for place in self.places:
            if (place.layer, place.site) == (layer, site):
                return place
        held = ", ".join(f"{p.layer}:{p.site}" for p in self.places)
        raise UsageError(f"{site!r} of block {layer} is not in the activation store ({held}); set collect.sites")

    def mean(self, place: Stored) -> Tensor:
        """Of each coordinate over all tokens, (width,) float64."""
        return self.moments[f"{place.name}/mean"]

    def std(self, place: Stored) -> Tensor:
        """Of each coordinate over all tokens, (width,) float64, divided by n."""
        return self.moments[f"{place.name}/std"]

    def values(self, place: Stored, rows: Sequence[int] | NDArray[np.int64] | Tensor | None = None) -> Tensor:
        """Vectors (n, width) of the tokens `rows`, in this order (None: of all), float32.

        Raises UsageError for a row that the store has not.
        """
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        if chosen.size and not (0 <= chosen.min() and chosen.max() < len(self)):
            raise UsageError(f"rows {chosen.min()} to {chosen.max()}: the activation store has {len(self)} tokens")
        found = torch.empty(len(chosen), place.width)
        at = np.searchsorted(self.starts, chosen, side="right") - 1
        for number, shard in enumerate(self.shards):
            inside: NDArray[np.int64] = np.flatnonzero(at == number)
            if len(inside):
                held = _view(shard, place.name)
                found[torch.tensor(inside)] = held[torch.tensor(chosen[inside] - self.starts[number])].float()
        return found

    def batches(self, place: Stored, size: int) -> Iterator[tuple[int, Tensor]]:
        """`values` of all tokens, at most `size` at a time, with the row of the first."""
        for start in range(0, len(self), size):
            yield start, self.values(place, np.arange(start, min(start + size, len(self))))

    def rows(self, **equal: Any) -> NDArray[np.int64]:
        """Rows of the tokens whose labels equal these, ascending."""
        mask = np.ones(self.tokens.num_rows, bool)
        for name, value in equal.items():
            mask &= np.array(pc.fill_null(pc.equal(self.tokens[name], value), False))
        return np.flatnonzero(mask)


def _view(shard: Mapping[str, Tensor], name: str) -> Tensor:
    return shard.mapped(name) if isinstance(shard, StoredTensors) else shard[name]
