"""A dictionary's reconstruction put in the place of an activation, and what that costs the model.

Loss recovered: (L_ablated - L_spliced) / (L_ablated - L_clean), with L the mean loss of the next token in nats, and
ablated the same site set to zero or to its mean over tokens: 1, nothing is lost; 0, no better than taking it away. With
the error term the part that is not reconstructed stays: x + (x'(f) - x'(f)), and nothing may change.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....models.access.edits import Edit
from ....models.parts.norms import wide
from .dictionary import SparseDictionary


@dataclass(frozen=True, eq=False)
class Splice(Edit):
    """x -> x', the dictionary's reconstruction; with keep_error x -> x + (x' - x'), which is x.

    States of several axes are flattened. The dictionary is used in float32 or wider.
    """

    kind: ClassVar[str] = "splice"
    dictionary: SparseDictionary
    keep_error: bool = False

    def transform(self, x: Tensor, value: Tensor | None) -> Tensor:
        flat = x.flatten(2).to(wide(x.dtype))
        reconstructed = self.dictionary.decoded(self.dictionary.latents(flat))
        if self.keep_error:
            flat = flat + (reconstructed - self.dictionary.decoded(self.dictionary.latents(flat)))
            return flat.to(x.dtype).view_as(x)
        return reconstructed.to(x.dtype).view_as(x)


def next_token_loss(logits: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum (B,) over each row's tokens of minus the log-probability of the next one, nats in float64, and how many were
    predicted (B,). logits (B, T, V), tokens and mask (B, T), padded on the right."""
    said = torch.log_softmax(logits[:, :-1].double(), -1).gather(-1, tokens[:, 1:, None])[..., 0]
    counts = mask[:, 1:]
    return -torch.where(counts, said, 0.0).sum(1), counts.sum(1)


def recovered(clean: float, spliced: float, ablated: float) -> float | None:
    """Loss recovered; None where ablation costs nothing, so that there is nothing to recover."""
    return (ablated - spliced) / (ablated - clean) if ablated > clean else None


def packed(dictionary: SparseDictionary) -> dict[str, Any]:
    """As plain JSON, for the arguments of a batch function."""
    return {name: _text(tensor) for name, tensor in dictionary.tensors().items()}


def unpacked(content: Mapping[str, Any]) -> SparseDictionary:
    """The inverse of `packed`."""
    return SparseDictionary.of({name: _tensor(value) for name, value in content.items()})


def _text(tensor: Tensor) -> dict[str, Any]:
    value = tensor.detach().cpu().to(torch.int64 if not tensor.is_floating_point() else torch.float32).contiguous()
    raw = value.numpy().tobytes()
    return {"shape": list(value.shape), "whole": not tensor.is_floating_point(), "data": base64.b64encode(raw).decode()}


def _tensor(value: Mapping[str, Any]) -> Tensor:
    dtype = torch.int64 if value["whole"] else torch.float32
    raw = bytearray(base64.b64decode(value["data"]))
    return torch.frombuffer(raw, dtype=dtype).reshape(value["shape"]).clone()
