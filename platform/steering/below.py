"""What lies below the block that candidates change: read once, and kept for all of them.

A search tries hundreds of gains at one site after another. Each leaves the residual stream that enters its block as it
is, so a pass begins there. What is kept is bounded: what was used last stays, and where one batch alone is larger than
the bound, every pass begins at the tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models.entering import Entry, exchanges
from .answered import Batch

if TYPE_CHECKING:
    from ..models import LanguageModel

BYTES = 1 << 28  # of residual streams that are kept


class Below:
    """Where a pass over a batch may begin that changes nothing below a block.

    Edits in force when a batch is first asked about count as part of the model: they have to stay the same.
    """

    def __init__(self, model: LanguageModel, at_most: int = BYTES) -> None:
        self._model, self._at_most = model, at_most
        self._kept: OrderedDict[tuple[int, int], tuple[Batch, Tensor]] = OrderedDict()
        self._bytes = 0

    def __call__(self, batch: Batch, layer: int) -> Entry | None:
        """Block `layer` with what enters it; None where a pass has to begin at the tokens."""
        key = (id(batch), layer)  # an id is not given twice as long as the batch is kept
        if key not in self._kept:
            if not self._keeps(batch, layer):
                return None
            self._add(key, batch, self._read(batch, layer))
        self._kept.move_to_end(key)
        return layer, self._kept[key][1]

    def _keeps(self, batch: Batch, layer: int) -> bool:
        width = 8 if self._model.dtype == torch.float64 else 4
        size = batch.tokens.numel() * self._model.config.d_model * width
        return layer > 0 and size <= self._at_most and not exchanges(self._model)

    @torch.no_grad()
    def _read(self, batch: Batch, layer: int) -> Tensor:
        site = f"blocks.{layer - 1}.resid_post"
        with self._model.capture(site) as acts:
            self._model(batch.tokens, batch.mask, only=batch.columns)
        return acts[site]

    def _add(self, key: tuple[int, int], batch: Batch, value: Tensor) -> None:
        self._kept[key] = (batch, value)
        self._bytes += value.nbytes
        while self._bytes > self._at_most:
            self._bytes -= self._kept.popitem(last=False)[1][1].nbytes
