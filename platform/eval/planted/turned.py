"""The same model on other axes: an orthogonal matrix turns the residual stream, and no answer changes.

With r' = r Q for every residual vector r (d), what reads it becomes W diag(g) Q, where g is the weight of the RMSNorm
before it, what writes it becomes Q^T W, and the table of embeddings E Q. A root mean square is the same on all axes, so
the logits are those of before up to rounding. The head is then no longer the table of embeddings: it is untied.

So a subspace of what a mixer says becomes a set of channels, exactly. Which channels they are is drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...models import LanguageModel
from ...models.parts.norms import RMSNorm
from .forced import ForcedBatch

if TYPE_CHECKING:
    from ...models.block import Block

#: what reads the normed residual stream (last axis d), and what writes to it (axis d, which of them)
_READERS = (
    "in_proj.weight", "dense_in.weight", "router.weight", "fc1", "projections.weight", "q_proj.weight",
    "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight",
)  # fmt: skip
_WRITERS = {
    "out_proj.weight": 0, "out_proj.bias": 0, "fc2": 1, "out_filter_dense.weight": 0, "out_filter_dense.bias": 0,
    "down_proj.weight": 0,
}  # fmt: skip
TURNABLE = ("mamba", "mamba2", "dense_mamba", "moe_mamba", "striped_hyena")


class Axes(NamedTuple):
    """turn (d, d): orthogonal, column c is the direction that becomes channel c. channels: those of the subspace."""

    turn: Tensor
    channels: tuple[int, ...]


def loudest_axes(model: LanguageModel, layer: int, count: int, batches: Sequence[ForcedBatch], seed: int) -> Axes:
    """Axes on which `count` channels of the mixer's output at `layer` hold its `count` loudest directions.

    Loudest: the leading eigenvectors of sum over tokens of x x^T, x (d) the mixer's output on the questions. Inside of
    the subspace and of its complement the axes are drawn at random, so that no channel of either stands out.
    """
    site, d = f"blocks.{layer}.mixer_out", model.config.d_model
    moment = torch.zeros(d, d, dtype=torch.float64)
    with torch.no_grad():
        for batch in batches:
            with model.capture(site) as found:
                model(batch.tokens, batch.mask)
            x = found[site][batch.mask].double()
            moment += x.T @ x
    vectors = torch.linalg.eigh(moment)[1]
    generator = torch.Generator().manual_seed(seed)
    inside, outside = vectors[:, d - count :], vectors[:, : d - count]
    order = torch.randperm(d, generator=generator)
    turn = torch.empty(d, d, dtype=torch.float64)
    turn[:, order[:count]] = inside @ _any_rotation(count, generator)
    turn[:, order[count:]] = outside @ _any_rotation(d - count, generator)
    return Axes(turn, tuple(sorted(order[:count].tolist())))


def turned(model: LanguageModel, turn: Tensor) -> LanguageModel:
    """A new model that computes what `model` computes, with its residual stream on the axes `turn` (d, d).

    Raises UsageError for an architecture whose residual stream has axes of its own: a LayerNorm, or parts not known
    here.
    """
    c = model.config
    if c.arch not in TURNABLE:
        raise UsageError(f"the residual stream of {c.arch} cannot be turned; of {', '.join(TURNABLE)} it can")
    with torch.device("meta"):
        other = LanguageModel(replace(c, tie_embeddings=False), model.tokenizer, model.name)
    weights = {name: value.detach().double() for name, value in model.state_dict().items()}
    head = weights.pop("lm_head.weight", weights["backbone.embeddings.weight"])
    new = dict(weights)
    new["backbone.embeddings.weight"] = weights["backbone.embeddings.weight"] @ turn
    new["lm_head.weight"] = (head * weights["backbone.norm_f.weight"]) @ turn
    new["backbone.norm_f.weight"] = torch.ones(c.d_model)
    for i, block in enumerate(model.blocks):
        _turn_block(block, f"backbone.layers.{i}.", weights, new, turn)
    other.load_state_dict({name: value.to(model.dtype) for name, value in new.items()}, assign=True)
    other.generation_settings = model.generation_settings
    return other.requires_grad_(True).eval()


def _turn_block(block: Block, at: str, weights: dict[str, Tensor], new: dict[str, Tensor], turn: Tensor) -> None:
    for norm, part, module in (("norm", "mixer", block.norm), ("norm_2", "feed_forward", block.norm_2)):
        if module is None:
            continue
        assert type(module) is RMSNorm and module.groups == 1
        gain = weights[f"{at}{norm}.weight"]
        new[f"{at}{norm}.weight"] = torch.ones_like(gain)
        for name in _READERS:
            if (full := f"{at}{part}.{name}") in weights:
                new[full] = (weights[full] * gain) @ turn
        for name, axis in _WRITERS.items():
            if (full := f"{at}{part}.{name}") in weights:
                new[full] = (weights[full].movedim(axis, -1) @ turn).movedim(-1, axis)


def _any_rotation(size: int, generator: torch.Generator) -> Tensor:
    if size == 0:
        return torch.zeros(0, 0, dtype=torch.float64)
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * torch.sign(torch.diagonal(r))
