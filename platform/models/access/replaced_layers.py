"""Layers that compute something else for a while: a weight that depends on the token cannot be put into a parameter.

    with replaced_layers({block.mixer.in_proj: lambda u: u @ chosen(u)}):
        logits = model(tokens)

A projection (or an embedding) is given its input and returns its output, bias included. A depthwise convolution is
given its input (B, T, E), the inputs before it (B, E, k - 1) or None, and the reset mask (B, T) or None, and returns
(B, T, E).

Mixers read some weights without calling their layer, to keep bits that a product by parts has; they ask `is_replaced`
first. A decode step in one go (`Mixer.step`) does not: replaced layers are for prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from ...core.errors import UsageError

#: what stands in for a layer's forward pass
Stead = Callable[..., Tensor]
_NAME = "forward"  # an attribute of the instance, which torch finds before that of its class


def is_replaced(layer: nn.Module) -> bool:
    """Whether `layer` computes something else at the moment."""
    return _NAME in vars(layer)


@contextmanager
def replaced_layers(steads: Mapping[nn.Module, Stead], *, all_run: bool = True) -> Iterator[None]:
    """Inside the block each of these layers computes what is given in its stead; afterwards they are as they were.

    all_run: raise UsageError at the end where one of them never ran, because its weight is read in another way.
    Raises UsageError at once for a layer that is replaced already.
    """
    if any(is_replaced(layer) for layer in steads):
        raise UsageError("a layer is replaced already; leave the first block before the next begins")
    ran: set[nn.Module] = set()

    def noticed(layer: nn.Module, stead: Stead) -> Stead:
        def forward(*given: Tensor | None) -> Tensor:
            ran.add(layer)
            return stead(*given)

        return forward

    try:
        for layer, stead in steads.items():
            object.__setattr__(layer, _NAME, noticed(layer, stead))
        yield
    finally:
        for layer in steads:
            vars(layer).pop(_NAME, None)
    idle = [type(layer).__name__ for layer in steads if layer not in ran]
    if all_run and idle:
        raise UsageError(
            f"{len(idle)} replaced layers never ran ({idle[0]}): this model reads their weights another way"
        )
