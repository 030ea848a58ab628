"""The digest of a model: what every stored result names as the function it came from."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..decoding.ends import ids

if TYPE_CHECKING:
    from ..model import LanguageModel


class KnownDigest(NamedTuple):
    """A digest, and what would differ if the weights had changed since."""

    version: tuple[tuple[int, int, float], ...]
    digest: str


def digest_of(model: LanguageModel, known: KnownDigest | None = None) -> KnownDigest:
    """sha256 over weights, configuration, tokenizer and end tokens; `known` itself where nothing has changed since."""
    # fused optimizers write without raising the version, and the sum tells
    version = tuple((p.data_ptr(), p._version, float(p.detach().sum())) for p in model.parameters())
    if known is not None and known.version == version:
        return known
    h = hashlib.sha256(json.dumps(model.config.to_hf(), sort_keys=True, allow_nan=False).encode())
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().to("cpu").contiguous()
        h.update(f"{name} {flat.dtype} {tuple(flat.shape)}".encode())
        h.update(flat.view(torch.uint8).numpy().tobytes() if flat.ndim else flat.numpy().tobytes())
    if model.tokenizer is not None:
        h.update(model.tokenizer.backend_tokenizer.to_str().encode())
    if set(model.end_tokens) != set(ids(model.config.eos_token_id)):  # else the configuration has said it
        h.update(json.dumps({"ends": model.end_tokens}).encode())
    return KnownDigest(version, h.hexdigest())
