"""The usual costs of steps, for their decorators: so many passes over all tokens, and so many bytes of result.

    @step("my_step", cost=passes(3))                            # three times forwards over all tokens of all items
    @step("my_step", cost=passes(3, bytes=64))                  # 64 bytes of result an item
    @step("my_step", cost=of_channels(3.4, bytes=53))           # 53 bytes for each channel of `settings.sites`
    @step("my_step", cost=cost)                                 # (asked, lengths) -> Effort, where settings decide

A pass backwards counts two. Work that no model does (statistics, files) is `Effort.seconds`, of one usual core. What
settings leave open, such as how many prompts a model answers correctly, is taken as all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from .places import places
from .step import Asked, Cost, Effort

#: passes over all tokens, and bytes of result an item, of a step that does not say what it takes
USUAL = 10.0
USUAL_BYTES = 4096.0
FILE_BYTES = 18_000.0


def passes(count: float, *, bytes: float = USUAL_BYTES, layer_bytes: float = 0.0, seconds: float = 0.0) -> Cost:
    """A step that reads all tokens `count` times and writes a table with `bytes` for each item and `layer_bytes` for
    each layer that is looked at; seconds: of work that no model does."""

    def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
        written = of_files(1) + bytes * len(lengths) + layer_bytes * len(asked.layers)
        return Effort(count * sum(lengths), written, seconds)

    return cost


def of_channels(count: float, *, bytes: float) -> Cost:
    """A step that reads all tokens `count` times and writes `bytes` for each channel of the sites in its settings."""

    def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
        channels = sum(place.channels for place in places(asked.model, asked.layers, asked.settings.sites))
        return Effort(count * sum(lengths), of_files(1) + bytes * channels)

    return cost


def mean_length(lengths: Sequence[int]) -> float:
    """Tokens of an item, 0 without items."""
    return sum(lengths) / max(1, len(lengths))


def of_files(count: int) -> float:
    """Bytes of so many tables without rows: each says in its footer what it was made from."""
    return FILE_BYTES * count


def trace_bytes(places: int, lengths: Sequence[int]) -> float:
    """Bytes of traces with a row for each place and token of every text, and of their averages."""
    return of_files(2) + 600 * places + 10 * places * sum(lengths)
