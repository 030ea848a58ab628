"""Making a text fit into a number of tokens: cut in its characters, then encoded again as the text that is left.

What a model reads is always the tokens of a text, never tokens that were cut out of a longer text's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .context_layout import Span, without

MAX_PROMPT_TOKENS = 512  # unless another length is asked for, wherever questions are asked

if TYPE_CHECKING:
    from ...models.decoding.text import Encoded


class Fitted(NamedTuple):
    """A text that fits, in tokens, and what of the whole text was dropped for it."""

    encoded: Encoded
    dropped: tuple[Span, ...]


def fit(whole: Encoded, order: Sequence[Span], max_tokens: int, encode: Callable[[str], Encoded]) -> Fitted | None:
    """`whole`, or what is left of it when the spans of `order` are dropped one after the other, each from the left and
    at the beginning of a token, until it has at most `max_tokens`; None where dropping all of them is not enough."""
    if len(whole.ids) <= max_tokens:
        return Fitted(whole, ())
    cuts = _cuts(whole, order)
    lost = [cut.tokens for cut in cuts]
    wanted = len(whole.ids) - max_tokens
    while cuts:
        at = min(bisect_left(lost, wanted), len(cuts) - 1)
        cut = cuts[at]
        dropped = (*order[: cut.span], (order[cut.span][0], cut.character))
        found = encode(without(whole.text, dropped))
        over = len(found.ids) - max_tokens
        if over <= 0:
            return Fitted(found, dropped)
        if at == len(cuts) - 1:
            break
        wanted = cut.tokens + over  # what is left has other tokens at the seams than the whole text has
    return None


class _Cut(NamedTuple):
    """Everything up to `character` of span number `span` dropped, which takes so many tokens away."""

    tokens: int
    span: int
    character: int


def _cuts(whole: Encoded, order: Sequence[Span]) -> list[_Cut]:
    """Where may be cut, in the order of dropping."""
    starts = sorted(start for start, _ in whole.offsets[whole.added :])
    cuts: list[_Cut] = []
    lost = 0
    for number, (start, stop) in enumerate(order):
        inside = starts[bisect_left(starts, start) : bisect_left(starts, stop)]
        for n, character in enumerate(inside):
            if character > start and (n == 0 or inside[n - 1] < character):  # a character's bytes stay together
                cuts.append(_Cut(lost + n, number, character))
        lost += len(inside)
        cuts.append(_Cut(lost, number, stop))
    return cuts
