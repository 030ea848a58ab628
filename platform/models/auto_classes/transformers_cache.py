"""`StateCache`: a `ModelState` where transformers' `generate` keeps its cache. See `transformers_auto`.

A state is all that our models need of the tokens before, so a cache is one state and a count of columns. It answers
what `generate` asks of a cache: how much it has read, rows repeated or chosen anew (beams, several samples of a text).
It cannot forget its last tokens; what needs that (drafts by an assistant) is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.errors import UsageError
from ..state import ModelState


class StateCache:
    """What a model has read. state: None before anything. columns: read so far, padding included."""

    is_compileable = False
    is_croppable = False
    is_sliding: tuple[bool, ...] = ()

    def __init__(self) -> None:
        self.state: ModelState | None = None
        self.columns = 0

    def advance(self, state: ModelState, columns: int) -> None:
        """Take the state after `columns` more."""
        self.state = state
        self.columns += columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.columns

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: no limit."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows, in this order."""
        if self.state is not None:
            self.state = self.state.rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.state is not None:
            self.reorder_cache(torch.arange(len(self.state.position)).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.columns = None, 0

    def crop(self, *_: Any, **__: Any) -> None:
        """Raises UsageError: a state does not say what it was some tokens ago."""
        raise UsageError("the state of a recurrent model cannot be cut back to fewer tokens; read the text again")
