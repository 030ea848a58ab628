"""How many rows at once: what a traced row costs in memory, estimated from the sites and states of the blocks.

The budget is for all that tracing adds to the model itself. Half of it may be taken by the baseline (residual streams
and states of the clean and the corrupted runs; samples are traced in several turns where all do not fit), the
rest by the rows on their way and by what one block needs for a part of them. The factors are upper bounds of what was
measured; `tests/interp/tracing` measures again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.errors import UsageError
from ...models.access.capture import STATE_SITES
from ...models.parts.norms import wide
from ...models.parts.past import PAST
from .arguments import integer

if TYPE_CHECKING:
    from ...models import LanguageModel

DEFAULT_BUDGET = 2**30
#: tokens in one call of a block: enough to keep matrix products busy, few enough to stay in the processor's caches
TOKENS_AT_ONCE = 512
_TOKEN_COPIES = 3  # of every named quantity of a token: parts of projections, results, their sums
_STATE_COPIES = 5  # of a carried state: gathered, laid out for the scan, its end, and that laid out again
_BASELINE_STATES = 4  # before, after, the one being computed, and what is captured of it
_ATTENTION_SHARE = 16  # scores per key of one query, at least: the width of keys over this


class Memory:
    """Sizes for tracing prompts of `length` tokens in `model` within `budget` bytes. All answers are at least 1.

    Raises UsageError where one sample at a time does not fit.
    """

    def __init__(self, model: LanguageModel, length: int, budget: int) -> None:
        budget = integer(budget, "memory_budget, a number of bytes,", 1)
        item = wide(model.dtype).itemsize
        d, depth = model.config.d_model, model.n_layers
        self._length, self._stream, self._vocabulary = length, item * d, item * model.config.vocab_size
        self._token, self._state = 0, 0  # of the largest layer
        states = 0
        for block in model.blocks:
            infos = [i for i in block.site_table() if i.name.rpartition(".")[2] not in STATE_SITES and not i.constant]
            named = 2 * d + sum(_product(info.shape) for info in infos)
            held = block.zero_state(1, model.dtype, model.device)
            records = sum(value.shape[1] for name, value in held.items() if name.startswith(PAST))
            state = item * (sum(value.numel() for value in held.values()) + records * length)
            self._token = max(self._token, item * (named + records * length // _ATTENTION_SHARE))
            self._state = max(self._state, state)
            states += state
        streams = length * self._stream * (depth + 2)
        self._baseline = streams + _BASELINE_STATES * states + length * _TOKEN_COPIES * self._token
        self._budget = budget
        row = length * (2 * self._stream + _TOKEN_COPIES * self._token) + _STATE_COPIES * self._state
        least = max(4 * self._baseline, 4 * row, 8 * length * self._stream, 32 * self._vocabulary)
        if budget < least:
            raise UsageError(
                f"memory_budget of {budget} bytes is too small for one sample of {length} tokens in this model: "
                f"give at least {least}"
            )

    @property
    def samples_at_once(self) -> int:
        """Samples whose baseline takes at most half of the budget; the clean run is a row of it too."""
        return self._budget // 2 // self._baseline - 1

    def carried_rows(self, width: int) -> int:
        """Rows of `width` tokens on their way: their residual streams take at most an eighth of the budget."""
        return max(1, self._budget // 8 // (width * self._stream))

    def rows_at_once(self, width: int) -> int:
        """Rows of `width` tokens in one call of a block: what it needs takes at most a quarter of the budget."""
        row = width * (2 * self._stream + _TOKEN_COPIES * self._token) + _STATE_COPIES * self._state
        return max(1, min(self._budget // 4 // row, TOKENS_AT_ONCE // width))

    @property
    def rows_read_out(self) -> int:
        """Rows whose logits are computed at once: they take at most an eighth of the budget."""
        return max(1, self._budget // 8 // (4 * self._vocabulary))


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for axis in shape:
        total *= axis
    return total
