"""How many rows of a batch go through the model at once, by the memory that one row of training needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..models.memory import physical_bytes
from ..models.probe import training_row

if TYPE_CHECKING:
    from ..models import LanguageModel

_BYTES_PER_PARAMETER = 16  # float32 weights, gradients and the two moments of AdamW
_SHARE = 0.5  # of all memory; the rest is for gradients on their way, the program and what else runs


def rows_that_fit(model: LanguageModel, batch_size: int, length: int) -> int:
    """The largest divisor of `batch_size` whose rows of `length` tokens fit beside the weights into half the memory.

    By all the memory that there is, not what is free now, so that a run and its continuation choose alike.
    """
    recompute, model.recompute_blocks = model.recompute_blocks, False  # the probe does not look into such blocks
    _, kept = training_row(model, length)
    model.recompute_blocks = recompute
    if recompute:  # the inputs of all blocks, and of one at a time all
        kept = kept // model.n_layers + 4 * model.n_layers * length * model.config.d_model
    device = model.device
    there_are = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else physical_bytes()
    free = _SHARE * there_are - _BYTES_PER_PARAMETER * model.n_parameters
    return max(
        rows for rows in range(1, batch_size + 1) if batch_size % rows == 0 and (rows == 1 or rows * kept <= free)
    )
