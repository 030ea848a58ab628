"""A language model on prompts as a function with named matrices (`matrix_function`), for decompositions.

Prompts are read with all but the last token of their answers. What lies below the first decomposed block is computed
once and kept: the residual stream that enters it, (tokens, width) of each prompt. Outputs are the logits of every
token, or those at the last token of each prompt.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...models.access.replaced_layers import replaced_layers
from ...models.decoding.prefill import pad
from ...models.entering import exchanges
from ..engine.batches import Item
from .asked import evaluating
from .matrix_function import Layer, Matrix
from .model_matrices import Place, matrix_of, stead_of
from .typed_tensors import ints

if TYPE_CHECKING:
    from ...models import LanguageModel

_ROWS = 8  # prompts that are read together for what enters the first block


class PromptsFunction:
    """See the module. Examples are numbers of `items`.

    last: outputs (batch, V) at each prompt's last token; else (tokens of the batch, V), prompt after prompt.
    """

    def __init__(
        self, model: LanguageModel, places: Sequence[Place], items: Sequence[Item], *, last: bool = False
    ) -> None:
        self.model, self.items, self.last = model, items, last
        self.places = {place.name: place for place in places}
        self._matrices = {place.name: matrix_of(model, place) for place in places}
        blocks = [place.layer for place in places]
        self._first = min((block for block in blocks if block is not None), default=0)
        below = self._first > 0 and None not in blocks and not exchanges(model)
        self._entering = self._read_below() if below else None

    @property
    def matrices(self) -> Mapping[str, Matrix]:
        """The matrices of the places."""
        return self._matrices

    def __call__(self, examples: Tensor, layers: Mapping[str, Layer]) -> Tensor:
        """Logits, in float32 or wider."""
        _, mask = self._tokens(examples)
        if not self.last:
            return self.logits(examples, layers)[mask]
        columns = torch.tensor([[len(self._item(i).prompt) - 1] for i in ints(examples)], device=self.model.device)
        return self.logits(examples, layers, columns)[:, 0]

    def counted(self, examples: Tensor) -> Tensor:
        """Which tokens (batch, T) are no padding."""
        return self._tokens(examples)[1]

    def logits(self, examples: Tensor, layers: Mapping[str, Layer], only: Tensor | None = None) -> Tensor:
        """Logits (batch, T, V), or of the columns `only` (batch, A)."""
        tokens, mask = self._tokens(examples)
        enter = None
        if self._entering is not None:
            below = torch.nn.utils.rnn.pad_sequence([self._entering[i] for i in ints(examples)], batch_first=True)
            enter = (self._first, below)
        steads = dict(stead_of(self.model, self.places[name], layer) for name, layer in layers.items())
        with replaced_layers(steads):
            return self.model(tokens, mask, enter=enter, only=only)

    def _item(self, number: int) -> Item:
        return self.items[number]

    def _tokens(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        tokens, mask = pad([self._item(i).prompt + self._item(i).answer[:-1] for i in ints(examples)])
        return tokens.to(self.model.device), mask.to(self.model.device)

    @torch.no_grad()
    def _read_below(self) -> list[Tensor]:
        found: list[Tensor] = []
        name = f"blocks.{self._first - 1}.resid_post"
        with evaluating(self.model):
            for start in range(0, len(self.items), _ROWS):
                examples = torch.arange(start, min(start + _ROWS, len(self.items)))
                tokens, mask = self._tokens(examples)
                with self.model.capture(name) as acts:
                    self.model(tokens, mask, last_only=True)
                lengths = ints(mask.sum(1))
                found += [row[:length].clone() for row, length in zip(acts[name], lengths, strict=True)]
        return found


@contextmanager
def still(model: LanguageModel) -> Generator[None]:
    """The model in evaluation mode, and none of its parameters learning; afterwards as it was."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluating(model):
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
