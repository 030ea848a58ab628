"""Tensors as text and back, for arguments of batch functions, which are plain JSON; equal tensors give equal text."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor


def to_text(tensors: Mapping[str, Tensor]) -> str:
    """A safetensors file in base64."""
    own = {name: t.detach().cpu().clone().contiguous() for name, t in sorted(tensors.items())}
    return base64.b64encode(save(own)).decode("ascii")


def from_text(text: str) -> dict[str, Tensor]:
    """The inverse of `to_text`, on the CPU."""
    return load(base64.b64decode(text))
