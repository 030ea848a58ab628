"""Blocks whose insides are computed twice in training, so that only their inputs are kept for the way back.

After Chen et al. (arXiv 1604.06174). The second pass has the random numbers of the first and what the blocks below had
left for it, so that gradients have the same bits as without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .access.run import Run
from .block import Block


def step_through(block: Block, run: Run, recompute: bool) -> Callable[..., Any]:
    """What is called in the block's place: the block, or a call of it that keeps nothing but its input.

    A block that edits or captures may act on is never computed twice, because they would act twice.
    """
    if not recompute or not block.training or run.edits or run.captures:
        return block
    left = _copied(run.shared)
    passes = count()

    def one_pass(residual: Tensor, run: Run, *given: Any) -> Any:
        return block(residual, run if next(passes) == 0 else replace(run, shared=_copied(left)), *given)

    return partial(checkpoint, one_pass, use_reentrant=False)


def _copied(shared: dict[str, Any]) -> dict[str, Any]:
    """What layers left for later ones, in dictionaries that these may change."""
    return {key: dict(held) if isinstance(held, dict) else held for key, held in shared.items()}
