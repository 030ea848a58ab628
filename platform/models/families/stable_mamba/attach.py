"""`attach`: Stable-Mamba parts on layers of a pretrained Mamba.

    model = attach(load("tiny-mamba"), layers=[0, 1, 2], mix=0.5)

The new model starts as the old one, bit for bit, because the parts' out_proj is zero; what they add is learned. It is a
model of architecture `stable_mamba_attached`: it trains, saves and loads like any other. The given model stays as it
is and shares no memory with the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from ....core.errors import UsageError, suggest
from ...building import build
from ...model import LanguageModel
from .stable_mamba_attached import AttachedMixer, AttachedOptions


def attach(
    base: LanguageModel,
    layers: Sequence[int],
    mix: float = 1.0,
    *,
    seed: int = 0,
    head_dim: int = 32,
    freeze_base: bool = False,
    **options: Any,
) -> LanguageModel:
    """`base` (arch "mamba") with Stable-Mamba parts on `layers`: residual += mamba(u) + mix * stable(u).

    seed: of the parts' first weights. head_dim: of their heads; must divide stable_expand * d_model. freeze_base: only
    the parts' parameters require a gradient. options: further fields of `AttachedOptions`, such as stable_state_size,
    sparsity or attn_every (which counts the layers of the whole model).

    Raises UsageError for a base that is no Mamba, layers it does not have, and options that do not exist or fit.
    """
    if base.config.arch != "mamba":
        raise UsageError(f"attach: the base must be a mamba model, {base.name} is {base.config.arch!r}")
    known = {f.name for f in fields(AttachedOptions)} - {"layers", "mix"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise UsageError(f"attach: there is no option {unknown[0]!r}; {suggest(unknown[0], known)}")
    wanted = sorted(layers)
    own = AttachedOptions(**options, layers=tuple(wanted), mix=float(mix))
    config = replace(base.config, arch="stable_mamba_attached", head_dim=head_dim, own=own)
    model = build(config, seed, tokenizer=base.tokenizer)
    model.to(device=base.device, dtype=base.dtype)
    ours = model.state_dict()
    with torch.no_grad():
        for name, weight in base.state_dict().items():
            ours[name].copy_(weight)
    if freeze_base:
        model.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, AttachedMixer):
                module.stable.requires_grad_(True)
    model.name = f"{base.name}+stable"
    return model.train(base.training)
