"""Parameters that stay float32 in a model of half precision, because rounding them changes what the model remembers.

A decay exp(Delta A) of 0.999 has 8 bits less room than its logarithm is given in bfloat16, and which expert is chosen
turns on the last bits of a score. These are few numbers: mamba_ssm keeps A_log, D and Delta's bias so, StripedHyena its
poles and residues, transformers the correction bias of a router. A module names its own in `keep_float32`; whatever
casts the model (`to`, `half`, `load`, `save`, transformers' `from_pretrained`) leaves them float32.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

HALVES = frozenset({torch.bfloat16, torch.float16})


class Float32Kept(nn.Module):
    """A module some of whose parameters or buffers are float32 where the others are halves.

    keep_float32: any dotted part of their names, within the module.
    """

    keep_float32: ClassVar[frozenset[str]] = frozenset()

    def kept_names(self) -> list[str]:
        """Names, within the module, of the parameters and buffers that stay float32."""
        named = chain(self.named_parameters(), self.named_buffers())
        return [name for name, _ in named if not self.keep_float32.isdisjoint(name.split("."))]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        tensors = dict(chain(self.named_parameters(), self.named_buffers()))
        kept = [tensors[name] for name in self.kept_names()]
        kept += [tensor.grad for tensor in kept if tensor.grad is not None]
        ids = {id(tensor) for tensor in kept}

        def careful(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            is_kept = id(tensor) in ids and made.dtype in HALVES
            return tensor.to(made.device, torch.float32) if is_kept else made

        return super()._apply(careful if ids else fn, recurse)


def kept_names(model: nn.Module) -> frozenset[str]:
    """Names of all parameters and buffers of `model` that stay float32 where it is cast to halves."""
    return frozenset(
        f"{at}.{name}" if at else name
        for at, module in model.named_modules()
        if isinstance(module, Float32Kept)
        for name in module.kept_names()
    )
