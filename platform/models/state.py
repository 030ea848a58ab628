"""The state a model carries from one call to the next: a per-layer tree of tensors and the number of tokens seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UsageError
from .mixer import LayerState
from .parts.past import PAST, lengthen


@dataclass(frozen=True)
class ModelState:
    """What a recurrent model remembers of the tokens so far.

    layers: one dict of tensors per layer, batch first; for `mamba` and `mamba2` "conv" (B, width, k-1), the last
    inputs of the convolution, oldest first, and "h", the recurrent state (B, E, N) or (B, H, P, N), always float32 or
    wider. A name that starts with "past_" is a record of earlier tokens that grows (`past`). position (B,): how many
    real tokens each row has seen.
    """

    layers: tuple[LayerState, ...]
    position: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> ModelState:
        """A state with `change` applied to every tensor, `position` included."""
        return ModelState(tuple({k: change(v) for k, v in s.items()} for s in self.layers), change(self.position))

    def rows(self, index: Sequence[int] | Tensor) -> ModelState:
        """The given rows of the batch, in that order; a row may be taken several times (forking a shared prefix).

        Raises UsageError for rows that there are not.
        """
        rows = torch.as_tensor(index, device=self.position.device)
        n = len(self.position)
        if (
            rows.ndim != 1
            or rows.is_floating_point()
            or (len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < n)
        ):
            raise UsageError(f"rows of a state of {n} rows are integers from 0 to {n - 1}, not {index!r}")
        return self.map(lambda t: t.index_select(0, rows))

    @staticmethod
    def concat(states: Sequence[ModelState]) -> ModelState:
        """The rows of all states below each other."""
        layers = tuple(
            {k: _stack(k, [s[k] for s in each]) for k in each[0]}
            for each in zip(*(s.layers for s in states), strict=True)
        )
        return ModelState(layers, torch.cat([s.position for s in states]))

    def detach(self) -> ModelState:
        """The same state without autograd history."""
        return self.map(Tensor.detach)

    @property
    def n_bytes(self) -> int:
        """Bytes of all layers' tensors."""
        return sum(t.numel() * t.element_size() for s in self.layers for t in s.values())


def _stack(name: str, tensors: list[Tensor]) -> Tensor:
    if name.startswith(PAST):
        tensors = [lengthen(t, max(t.shape[-1] for t in tensors)) for t in tensors]
    return torch.cat(tensors)
