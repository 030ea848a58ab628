"""One vector of every text at a site in every layer: its last token, the mean over its evidence, or over all tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import InputError, UsageError, suggest
from .contrast import Text
from .method import Activations

if TYPE_CHECKING:
    from ...models import LanguageModel

AT = ("last", "evidence", "all")


class SiteActivations(NamedTuple):
    """values: layer -> (n, F) float64, in the order of the texts. rms: layer -> root of the mean square of the site's
    coordinates over the tokens that were looked at. shape: of the site at one token; F is its product."""

    values: dict[int, Activations]
    rms: dict[int, float]
    shape: tuple[int, ...]


def site_shape(model: LanguageModel, site: str, layers: Sequence[int] | None) -> tuple[list[int], tuple[int, ...]]:
    """The layers that have `site` (a name without `blocks.N.`), or those of `layers`, and its shape at one token.

    Raises UsageError for a site or layer that the model does not have, and where the site's shape differs by layer.
    """
    shapes: dict[int, tuple[int, ...]] = {}
    names: dict[str, None] = {}
    for each in model.sites():
        if not each.name.startswith("blocks.") or each.constant:
            continue
        _, layer, name = each.name.split(".", 2)
        names[name] = None
        if name == site:
            shapes[int(layer)] = tuple(int(size) for size in each.shape[2:])
    if not shapes:
        raise UsageError(f"no block of {model.name} has a site {site!r}; {suggest(site, names, limit=40)}")
    chosen = sorted(shapes) if layers is None else list(layers)
    for layer in chosen:
        if layer not in shapes:
            have = ", ".join(map(str, sorted(shapes)))
            raise UsageError(f"{model.name} has no site {site!r} in layer {layer}; its layers with it: {have}")
    if not chosen or len(set(chosen)) != len(chosen):
        raise UsageError("give at least one layer, and none twice")
    sizes = {shapes[layer] for layer in chosen}
    if len(sizes) > 1:
        raise UsageError(f"the site {site!r} of {model.name} has another width in each of layers {chosen}; "
                         "choose layers of one width")  # fmt: skip
    return chosen, sizes.pop()


def read_site(
    model: LanguageModel,
    texts: Sequence[Text],
    *,
    site: str,
    layers: Sequence[int] | None = None,
    at: str = "last",
    batch_size: int = 16,
) -> SiteActivations:
    """What `site` holds for each of `texts` (see `SiteActivations`). layers: None for all that have it.

    Raises UsageError as `site_shape`, and for `at` that is none of last, evidence, all; InputError for a model without
    a tokenizer, for a text whose evidence is not known or has no token, and for activations that are not finite.
    """
    if at not in AT:
        raise UsageError(f"aggregated at {at!r}: {suggest(at, AT)}")
    chosen, shape = site_shape(model, site, layers)
    names = {layer: f"blocks.{layer}.{site}" for layer in chosen}
    specs = [f"{name}@-1" if at == "last" else name for name in names.values()]
    values: dict[int, list[NDArray[np.float64]]] = {layer: [] for layer in chosen}
    squares: dict[int, float] = dict.fromkeys(chosen, 0.0)
    counted = 0
    for tokens, mask, looked_at in _batches(model, texts, at, batch_size):
        with torch.no_grad(), model.capture(*specs) as acts:
            model(tokens, mask, last_only=True)
        counted += int(looked_at.sum())
        for layer, name in names.items():
            x = acts[name].double().flatten(2)  # (b, T or 1, F)
            if at == "last":
                x = x[:, :1]
            else:
                x = x.masked_fill(~looked_at[..., None], 0.0)
            if not bool(torch.isfinite(x).all()):
                raise InputError(f"{name}: activations of {model.name} are not finite; no vector can be made of them")
            squares[layer] += float(x.square().sum())
            values[layer].append((x.sum(1) / looked_at.sum(1, keepdim=True)).cpu().numpy())
    size = int(np.prod(shape))
    return SiteActivations(
        {layer: np.concatenate(parts) for layer, parts in values.items()},
        {layer: (squares[layer] / (counted * size)) ** 0.5 for layer in chosen},
        shape,
    )


def _batches(
    model: LanguageModel, texts: Sequence[Text], at: str, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tokens (b, T), mask (b, T), and which tokens are looked at (b, T), or (b, 1) for the last ones."""
    from ...models.decoding.text import encode_text

    if model.tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the texts; name one with --tokenizer")
    for start in range(0, len(texts), batch_size):
        rows = texts[start : start + batch_size]
        encoded = [encode_text(model.tokenizer, row.text) for row in rows]
        for row, found in zip(rows, encoded, strict=True):
            if not found.ids:
                raise InputError(f"the text {row.text[:60]!r} has no token")
        width = max(len(found.ids) for found in encoded)
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        inside = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, (row, found) in enumerate(zip(rows, encoded, strict=True)):
            tokens[i, : len(found.ids)] = torch.tensor(found.ids)
            mask[i, : len(found.ids)] = True
            for span in row.evidence:
                first, stop = found.tokens_of(*span)
                inside[i, first:stop] = True
        if at == "evidence" and not bool(inside.any(1).all()):
            lacking = rows[int((~inside.any(1)).nonzero()[0])]
            raise InputError(
                f"the text {lacking.text[:60]!r} names no evidence, so nothing can be aggregated there; "
                "use --at last or --at all"
            )
        device = model.device
        looked_at = torch.ones(len(rows), 1, dtype=torch.bool) if at == "last" else mask if at == "all" else inside
        yield tokens.to(device), mask.to(device), looked_at.to(device)
