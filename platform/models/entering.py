"""Entering a model at one of its blocks: what lies below is read once, and not again for each of many edits above.

    with model.capture("blocks.1.resid_post") as acts:
        model(tokens)
    model(tokens, enter=(2, acts["blocks.1.resid_post"]))   # what model(tokens) gives, from block 2 on

It may continue a state, of which the blocks below use nothing; what it ends with is no state of the whole model.
Blocks that exchange something beside the residual stream (DenseMamba; Zamba2's shared block) cannot be entered by
themselves; `exchanges` says so, and entering one is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..core.errors import UsageError
from .access.run import Run

if TYPE_CHECKING:
    from .model import LanguageModel

#: a block, and the residual stream (B, T, d) that enters it
Entry = tuple[int, Tensor]

_KNOWN: WeakKeyDictionary[LanguageModel, bool] = WeakKeyDictionary()  # it costs a pass over one token


def exchanges(model: LanguageModel) -> bool:
    """Whether blocks tell each other things beside the residual stream, so that none can be entered by itself."""
    if model not in _KNOWN:
        here = torch.zeros(1, dtype=torch.long, device=model.device)
        run = Run("prefill", offset=here, lengths=here + 1, anchor=here + 1, width=1, continues=False)
        x = torch.zeros(1, 1, model.config.d_model, dtype=model.dtype, device=model.device)
        with torch.no_grad():
            for i, block in enumerate(model.blocks):
                x, _ = block(x, run, f"blocks.{i}.", None, False)
        _KNOWN[model] = bool(run.shared)
    return _KNOWN[model]


def as_entry(model: LanguageModel, enter: Any, tokens: Tensor, return_state: bool) -> Entry | None:
    """`enter` as a block and what enters it. return_state: whether the call is to give a state.

    Raises UsageError for anything else, for a model whose blocks exchange something, and where a state is to be given:
    there is none of the blocks below.
    """
    if enter is None:
        return None
    layer, residual = enter if isinstance(enter, tuple) and len(enter) == 2 else (None, enter)
    shape = (*tokens.shape, model.config.d_model)
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < model.n_layers:
        raise UsageError(f"enter is (block, residual stream), with a block from 0 to {model.n_layers - 1}")
    if not isinstance(residual, Tensor) or tuple(residual.shape) != shape:
        found = tuple(residual.shape) if isinstance(residual, Tensor) else type(residual).__name__
        raise UsageError(f"what enters block {layer} is a tensor of shape {shape}, not {found}")
    if return_state:
        raise UsageError("a pass that enters at a block has no state of the blocks below: leave return_state out")
    if exchanges(model):
        raise UsageError(f"blocks of {model.name} exchange more than the residual stream: none can be entered alone")
    return layer, residual.to(tokens.device)
