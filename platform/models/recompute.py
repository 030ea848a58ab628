"""Blocks whose insides are computed twice in training, so that only their inputs are kept for the way back.

After Chen et al. (arXiv 1604.06174). The second pass has the random numbers of the first, so that gradients have the
same bits as without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from .access.run import Run
from .block import Block


def step_through(block: Block, run: Run, recompute: bool) -> Callable[..., Any]:
    """What is called in the block's place: the block, or a call of it that keeps nothing but its input.

    A block that edits or captures may act on is never computed twice, because they would act twice.
    """
    if not recompute or not block.training or run.edits or run.captures:
        return block
    return partial(checkpoint, block, use_reentrant=False)
