"""A model with other weights for a while: low-rank changes as JSON, and the block in which they are in force.

The weights themselves are never written to: a changed layer gets a tensor of its own and its old one back, so that a
model that is shared with others, or whose weights lie in a file, stays what it is.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..models import LanguageModel

#: name of a weight (out, in) -> (A (r, in), B (out, r)), which change it by B A
Factors = Mapping[str, tuple[Tensor, Tensor]]


@contextmanager
def changed_weights(model: LanguageModel, factors: Factors) -> Iterator[None]:
    """Inside the block the weights of `model` are W + B A."""
    before: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for name, (a, b) in factors.items():
            path, _, last = name.rpartition(".")
            module = model.get_submodule(path)
            weight = getattr(module, last)
            change = (b.to(weight.device) @ a.to(weight.device)).to(weight.dtype)
            before.append((module, last, weight))
            setattr(module, last, nn.Parameter(weight.detach() + change, requires_grad=False))
        yield
    finally:
        for module, last, weight in reversed(before):
            setattr(module, last, weight)


def to_plain(factors: Factors) -> dict[str, Any]:
    """The factors as JSON, float32."""
    return {name: [_encoded(a), _encoded(b)] for name, (a, b) in factors.items()}


def from_plain(values: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """The inverse of `to_plain`."""
    return {name: (_decoded(a), _decoded(b)) for name, (a, b) in values.items()}


def digest_of(values: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name a change as JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _encoded(tensor: Tensor) -> dict[str, Any]:
    plain = tensor.detach().cpu().to(torch.float32).contiguous()
    return {"shape": list(plain.shape), "base64": base64.b64encode(plain.numpy().tobytes()).decode("ascii")}


def _decoded(entry: Mapping[str, Any]) -> Tensor:
    content = bytearray(base64.b64decode(entry["base64"]))
    return torch.frombuffer(content, dtype=torch.float32).reshape(entry["shape"]).clone()
