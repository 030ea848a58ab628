"""Names in files that hold a base model alone: without the prefix that a model with a head gives them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def below(
    weights: Mapping[str, Tensor], base: str, head: str, other_names: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """The tensors with names below `base.` or `head.`; other_names: first part of a name -> what it is here.

    `layers.0.norm.weight` becomes `{base}.layers.0.norm.weight`. The tensors themselves say nothing: whoever writes a
    base model leaves the prefix of all names out.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        first, dot, rest = name.partition(".")
        first = (other_names or {}).get(first, first)
        found[f"{first}{dot}{rest}" if first in (base, head) else f"{base}.{name}"] = tensor
    return found
