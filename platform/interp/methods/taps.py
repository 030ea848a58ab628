"""Two edits by which an analysis reaches into a forward pass: `Watch` looks at a site, `Gain` makes it differentiable.

Both leave every bit of the pass as it was. A capture would keep the tensors of all sites until the pass is over; a
`Watch` hands each one over where it arises, so that memory is that of one site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ...core.errors import UsageError
from ...models.access.edits import Edit

if TYPE_CHECKING:
    from ...models.access.run import Run


@dataclass(frozen=True, eq=False)
class Watch(Edit):
    """Calls `see(x, lengths)` with the site's tensor x (B, T, C), real tokens first in every row, and lengths (B,).

    Raises UsageError at a state.
    """

    kind: ClassVar[str] = "watch"
    site: str
    see: Callable[[Tensor, Tensor], None]

    def apply(self, run: Run, x: Tensor) -> tuple[Tensor, bool]:
        self.see(x, run.lengths)
        return x, True

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        raise UsageError(f"{self}: a state exists only at chosen steps; watch a site with one value per token")


@dataclass(frozen=True, eq=False)
class Gain(Edit):
    """x -> gain * x with gain (B, C), one factor for each row and channel at all its tokens.

    With gains of 1 nothing changes, and the derivative of an output by a gain is
    sum_t x[t, c] * d output / d x[t, c]: gradient times activation, summed over the tokens, for every row apart.
    Raises UsageError at a state.
    """

    kind: ClassVar[str] = "gain"
    site: str
    gain: Tensor

    def apply(self, run: Run, x: Tensor) -> tuple[Tensor, bool]:
        return x * self.gain[:, None, :].to(x.dtype), True

    def apply_at(self, run: Run, column: int, x: Tensor) -> tuple[Tensor, bool]:
        raise UsageError(f"{self}: a state exists only at chosen steps; use a site with one value per token")
