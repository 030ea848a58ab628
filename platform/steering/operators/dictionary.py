"""The tensors by which an operator knows features of a sparse dictionary: those of the chosen ones alone."""

from __future__ import annotations

from typing import Any

from . import Target

#: name -> axes, as `Operator.tensors`; k features
DICTIONARY = {
    "encoder": "k n ...",
    "bias": "k",
    "decoder": "k n ...",
    "centre?": "n ...",
    "threshold?": "k",
}


def latents(target: Target) -> dict[str, Any]:
    """The fields of `Features` that say what the features are: a threshold makes them jumprelu, else they are relu."""
    names = [name.removesuffix("?") for name in DICTIONARY]
    found: dict[str, Any] = {name: target.tensors[name] for name in names if name in target.tensors}
    return found | {"activation": "jumprelu" if "threshold" in found else "relu"}
