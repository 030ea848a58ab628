"""Weights that a configuration ties: what a file says of them, against what config.json says.

Two parameters are tied where they are one tensor: most often the head and the table of embeddings. A file may hold the
tensor once, under either name, or under both. Where it holds both and they differ, the file is right and the
configuration wrong: the model is then not tied, as in transformers, and each keeps its own values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Ties = Iterable[tuple[str, str]]  # (copy, original)


def settle(weights: Mapping[str, Tensor], ties: Ties) -> tuple[dict[str, Tensor], bool]:
    """The weights with each tied tensor once, under the name of its original, and True. Where a copy differs from its
    original: all of them under all their names, and False."""
    found, first = dict(weights), dict[str, Tensor]()
    pairs, differ = list(ties), False
    for copy, original in pairs:
        for name in (original, copy):
            if name in found:
                differ |= not same(first.setdefault(original, found[name]), found[name])
    for copy, original in pairs:
        if differ and copy not in found and original in first:
            found[copy] = first[original].clone()
        elif not differ and copy in found:
            del found[copy]
    return found | {original: tensor for original, tensor in first.items() if original not in found}, not differ


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape and equal values, in whatever dtypes they are stored."""
    wide = torch.promote_types(a.dtype, b.dtype)
    return a.shape == b.shape and torch.equal(a.to(wide), b.to(wide))
