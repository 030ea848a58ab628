"""Models that compute the same function with other weights: inner channels in another order and on another scale, or
the residual stream in another basis; not a test file."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from model_zoo import nano
from mplat.interp.engine.batches import Item
from mplat.models import LanguageModel
from torch import Tensor


class Rearranged(NamedTuple):
    """Of each block: channel e of the twin is channel `channels[e]` of the model, coordinate n `coordinates[n]`."""

    model: LanguageModel
    channels: list[Tensor]
    coordinates: list[Tensor]


@torch.no_grad()
def rearranged(model: LanguageModel, seed: int = 0) -> Rearranged:
    """A Mamba with its inner channels and its state coordinates in another order, x before the convolution and B on
    other positive scales, and what reads them on the inverse ones."""
    twin = _copy(model)
    generator = torch.Generator().manual_seed(seed)
    channels, coordinates = [], []
    for block in twin.blocks:
        m: Any = block.mixer
        (E, N), R = m.A_log.shape, m.dt_proj.in_features
        order, turned = torch.randperm(E, generator=generator), torch.randperm(N, generator=generator)
        width, write = (torch.rand(n, generator=generator, dtype=torch.float64) * 3 + 0.3 for n in (E, N))
        m.in_proj.weight.copy_(torch.cat([m.in_proj.weight[:E][order] * width[:, None], m.in_proj.weight[E:][order]]))
        m.conv1d.weight.copy_(m.conv1d.weight[order] / width[:, None, None])
        m.conv1d.bias.copy_(m.conv1d.bias[order])
        dt, B, C = m.x_proj.weight[:, order].split([R, N, N])
        m.x_proj.weight.copy_(torch.cat([dt, B[turned] * write[:, None], C[turned] / write[:, None]]))
        m.dt_proj.weight.copy_(m.dt_proj.weight[order])
        m.dt_proj.bias.copy_(m.dt_proj.bias[order])
        m.A_log.copy_(m.A_log[order][:, turned])
        m.D.copy_(m.D[order])
        m.out_proj.weight.copy_(m.out_proj.weight[:, order])
        channels.append(order)
        coordinates.append(turned)
    return Rearranged(twin, channels, coordinates)


@torch.no_grad()
def in_another_basis(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """A Mamba with untied head whose residual stream is multiplied by a random orthogonal matrix, its norms' weights
    moved into what reads them."""
    twin = _copy(model)
    d = model.config.d_model
    drawn = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = torch.linalg.qr(drawn)[0]
    twin.backbone.embeddings.weight.copy_(model.backbone.embeddings.weight @ turn)
    for each in twin.blocks:
        block: Any = each
        block.mixer.in_proj.weight.copy_((block.mixer.in_proj.weight * block.norm.weight) @ turn)
        block.mixer.out_proj.weight.copy_(turn.T @ block.mixer.out_proj.weight)
        block.norm.weight.fill_(1.0)
    head, norm = twin.lm_head, twin.backbone.norm_f.weight
    assert head is not None and isinstance(norm, Tensor)
    head.weight.copy_((head.weight * norm) @ turn)
    norm.fill_(1.0)
    return twin


def untied(seed: int = 0) -> LanguageModel:
    """A nano Mamba with a head of its own, in float64."""
    return nano("mamba", seed=seed, tie_embeddings=False)


@torch.no_grad()
def answered_by(model: LanguageModel, items: list[Item]) -> list[Item]:
    """The items with what the model says as their answers: all right, and likelier than with anything else in it."""
    return [
        replace(item, answer=(int(model(torch.tensor([item.prompt]), last_only=True)[0, -1].argmax()),))
        for item in items
    ]


def _copy(model: LanguageModel) -> LanguageModel:
    twin = copy.deepcopy(model)
    twin._digest, twin.name = None, f"{model.name}, rearranged"
    return twin
