"""Whether planned work is worth a Ray of its own.

The rule, for `--address auto` alone, without RAY_ADDRESS and where nothing is said of workers: work of at most
SMALL_WORK operations is done in this process, because a private Ray takes longer to start than it saves there. So is
any work on this machine's GPU. An operation is one multiplication and addition; a model does about two of them for
every parameter that a token uses. Where the work is done changes no byte of any table.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...models import LanguageModel

SMALL_WORK = 10_000_000_000_000  # a few minutes of one processor core


def place(address: str, workers: bool, operations: float) -> str:
    """The address where the work is done: `none`, this process, where it is small and nothing else was asked for.
    workers: whether something is said of them."""
    free = address == "auto" and not workers and not os.environ.get("RAY_ADDRESS")
    return "none" if free and operations <= SMALL_WORK else address


def forward_operations(model: LanguageModel, tokens: int) -> float:
    """Operations of reading so many tokens once."""
    return 2.0 * model.n_active_parameters * tokens
