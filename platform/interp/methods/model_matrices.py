"""The matrices of a language model that can be decomposed, and where they stand.

Dense projections, depthwise convolutions (whose rows are matrices of rank one) and the embedding. What is a vector or
decides a decay (A_log, D, biases, norms) stays whole, and so does a matrix whose product is computed elsewhere than in
its own layer, such as stacked experts, or that sees only some of the tokens: a pass over a few tokens shows which these
are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import UsageError, suggest
from ...models.access.replaced_layers import Stead, replaced_layers
from ...models.kernels import causal_conv
from .matrix_function import Acting, Layer, Matrix

if TYPE_CHECKING:
    from ...models import LanguageModel

EMBEDDING = "embedding"
_TOKENS = 3  # of the pass that shows which layers run


class Place(NamedTuple):
    """A matrix of the model: its block (None: the embedding), its layer's path in the block, how it acts, and its shape
    as (out, in)."""

    layer: int | None
    path: str
    acting: Acting
    rows: int
    columns: int

    @property
    def name(self) -> str:
        """For tables and tensors: `2.mixer.in_proj`, `embedding`."""
        return self.path if self.layer is None else f"{self.layer}.{self.path}"


class Whole(NamedTuple):
    """A parameter that is not decomposed, and why. shape: as it is stored."""

    layer: int | None
    parameter: str
    shape: tuple[int, ...]
    reason: str


def layer_of(model: LanguageModel, place: Place) -> nn.Module:
    """The layer that holds the matrix."""
    return model.embedding if place.layer is None else model.blocks[place.layer].get_submodule(place.path)


def matrix_of(model: LanguageModel, place: Place) -> Matrix:
    """The matrix, detached, in float32 (float64 of a float64 model)."""
    layer = layer_of(model, place)
    weight = cast(Tensor, layer.weight).detach()
    if place.acting == "lookup":
        weight = weight.T
    elif place.acting == "rows":
        weight = weight[:, 0]
    elif _is_transposed(layer):
        weight = weight.T
    return Matrix(weight.to(torch.promote_types(weight.dtype, torch.float32)).contiguous(), place.acting)


def stead_of(model: LanguageModel, place: Place, layer: Layer) -> tuple[nn.Module, Stead]:
    """The model's layer, and what stands in for it: `layer` in its dtype, with the bias, which stays whole."""
    module = layer_of(model, place)
    bias = cast("Tensor | None", getattr(module, "bias", None))
    weight = cast(Tensor, module.weight).detach()
    wide = torch.promote_types(weight.dtype, torch.float32)

    def with_bias(y: Tensor) -> Tensor:
        y = y.to(weight.dtype)
        return y if bias is None else y + bias.detach()

    def embedding(tokens: Tensor) -> Tensor:
        return layer(tokens).to(weight.dtype)

    def projection(u: Tensor) -> Tensor:
        return with_bias(layer(u.to(wide)))

    def convolution(u: Tensor | None, before: Tensor | None, reset: Tensor | None) -> Tensor:
        return with_bias(layer(_without_bias(cast(Tensor, u), weight, before, reset).to(wide)))

    return module, {"lookup": embedding, "dense": projection, "rows": convolution}[place.acting]


def decomposable(model: LanguageModel, layers: Sequence[int]) -> list[Place]:
    """All matrices in these blocks that can be decomposed, in the order in which they run, the embedding last."""
    found: dict[int, tuple[int, str, nn.Module, Acting]] = {
        id(module): (layer, path, module, acting) for layer in layers for path, module, acting in _inside(model, layer)
    }
    met: dict[int, list[bool]] = {}

    def watched(module: nn.Module, acting: Acting) -> Stead:
        def stead(u: Tensor | None, *rest: Tensor | None) -> Tensor:
            assert u is not None
            met.setdefault(id(module), []).append(tuple(u.shape[:2]) == (1, _TOKENS) and u.ndim == 3)
            return _as_it_is(module, acting, u, *rest)

        return stead

    tokens = torch.arange(_TOKENS, device=model.device)[None] % model.config.vocab_size
    steads = {module: watched(module, acting) for _, _, module, acting in found.values()}
    with torch.no_grad(), replaced_layers(steads, all_run=False):
        model(tokens, last_only=True)
    places: list[Place] = []
    for number, every_token in met.items():
        layer, path, module, acting = found[number]
        if every_token == [True]:  # once, on every token
            rows, columns = _shape(module, acting)
            places.append(Place(layer, path, acting, rows, columns))
    table = model.embedding.weight
    return [*places, Place(None, EMBEDDING, "lookup", table.shape[1], table.shape[0])]


def chosen_places(model: LanguageModel, layers: Sequence[int], names: Sequence[str] | None) -> list[Place]:
    """The matrices with these names in these blocks, in the order of `decomposable`.

    names: paths in a block or their ends (`in_proj`), `embedding`; with a `?` at the end: where it is there. None: of
    each block the first and the last dense projection of its mixer. Raises UsageError for a name that none of the
    blocks has.
    """
    every = decomposable(model, layers)
    if names is None:
        return [place for layer in layers for place in _first_and_last(model, layer, every)]
    chosen: list[Place] = []
    for name in names:
        plain = name.removesuffix("?")
        fitting = [place for place in every if place.path == plain or place.path.endswith(f".{plain}")]
        if not fitting and plain == name:
            known = sorted({place.path for place in every})
            raise UsageError(
                f"no matrix {name!r} that can be decomposed in these blocks; {suggest(name, known, limit=40)}"
            )
        chosen += fitting
    return [place for place in every if place in chosen]


def stays_whole(model: LanguageModel, layers: Sequence[int], places: Sequence[Place]) -> list[Whole]:
    """The parameters of these blocks, and the embedding, that are in none of `places`, with the reason."""
    able = {(place.layer, place.path) for place in decomposable(model, layers)}
    taken = {(place.layer, place.path) for place in places}
    found: list[Whole] = []
    for layer in layers:
        for name, parameter in model.blocks[layer].named_parameters():
            path, _, last = name.rpartition(".")
            if last == "weight" and (layer, path) in taken:
                continue
            if last == "A_log":
                reason = "rates of decay"
            elif parameter.ndim < 2:
                reason = "a vector"
            elif last == "weight" and (layer, path) in able:
                reason = "not chosen"
            elif last == "weight":
                reason = "its layer does not see every token once"
            else:
                reason = "no weight of a layer of its own"
            found.append(Whole(layer, name, tuple(parameter.shape), reason))
    if (None, EMBEDDING) not in taken:
        found.append(Whole(None, EMBEDDING, tuple(model.embedding.weight.shape), "not chosen"))
    return found


def _inside(model: LanguageModel, layer: int) -> Iterator[tuple[str, nn.Module, Acting]]:
    every = cast("Iterator[tuple[str, nn.Module]]", model.blocks[layer].named_modules())
    for path, module in every:
        if isinstance(module, nn.Linear) or _is_transposed(module):
            yield path, module, "dense"
        elif isinstance(module, nn.Conv1d) and module.groups == module.in_channels == module.out_channels:
            yield path, module, "rows"


def _first_and_last(model: LanguageModel, layer: int, every: Sequence[Place]) -> list[Place]:
    mixer = set(model.blocks[layer].mixer.modules())
    dense = [p for p in every if p.layer == layer and p.acting == "dense" and layer_of(model, p) in mixer]
    return dense if len(dense) < 2 else [dense[0], dense[-1]]


def _is_transposed(layer: nn.Module) -> bool:
    """transformers' Conv1D of GPT-2: a projection whose weight is stored as (in, out)."""
    return type(layer).__name__ == "Conv1D" and not isinstance(layer, nn.Conv1d)


def _shape(layer: nn.Module, acting: Acting) -> tuple[int, int]:
    weight = cast(Tensor, layer.weight)
    if acting == "rows":
        return weight.shape[0], weight.shape[2]
    return (weight.shape[1], weight.shape[0]) if _is_transposed(layer) else (weight.shape[0], weight.shape[1])


def _without_bias(u: Tensor, weight: Tensor, before: Tensor | None, reset: Tensor | None) -> Tensor:
    return cast(Tensor, causal_conv(u, weight[:, 0], None, initial_state=before, reset=reset))


def _as_it_is(layer: Any, acting: Acting, u: Tensor, *rest: Tensor | None) -> Tensor:
    if acting == "rows":
        y = _without_bias(u, layer.weight, *rest)
        return y if layer.bias is None else y + layer.bias
    return F.linear(u, layer.weight.T if _is_transposed(layer) else layer.weight, layer.bias)
