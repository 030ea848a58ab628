"""The language in which a task says what its circuit does, for every architecture alike.

The residual stream is divided into named spaces. A memory keeps values under keys, and gives back those whose key fits
the query; a shift says what the token before was. Which channels, states and heads do that is for an architecture to
say (`architectures`).

    memory   out_t = sum_{s <= t} (query_t . key_s) value_s          up to decay, or a softmax over s
    shift    out_t = source_{t-1}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

Vector = tuple[float, ...]
#: the coordinate of the residual stream that is the same for every word, and what it holds
CONSTANT, LEVEL = "constant", 4.0


class Word(NamedTuple):
    """A word of the vocabulary: what its embedding holds in each space; what it does not name is zero."""

    text: str
    holds: Mapping[str, Vector]


class Read(NamedTuple):
    """All dimensions of a space, times `factor`. delay: of the token so many before (0 or 1). at: the places whose words
    matter, where these are not the places of the memory itself."""

    space: str
    factor: float = 1.0
    delay: int = 0
    at: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    """What is written at `write_at` and read at `read_at` (places of a prompt).

    key, query: as many dimensions; value: as many as `into`, or as many as `matrix` (into, value) has columns. gain: of
    what is read. size: the norm of a value, for architectures that norm what they read.
    path: see `truth.Part`.
    """

    name: str
    key: tuple[Read, ...]
    value: tuple[Read, ...]
    query: tuple[Read, ...]
    into: str
    write_at: tuple[str, ...]
    read_at: tuple[str, ...]
    matrix: tuple[Vector, ...] | None = None
    gain: float = 1.0
    size: float = 1.0
    path: str = ""


@dataclass(frozen=True)
class Shift:
    """`source` of the token before, into another space. at: places where that is used; source_at: those before them."""

    name: str
    source: str
    into: str
    at: tuple[str, ...]
    source_at: tuple[str, ...]


Block = tuple[Memory | Shift, ...]


@dataclass(frozen=True)
class Plan:
    """A circuit. spaces: name -> number of dimensions. words: the vocabulary, in its order. answers: word -> what it says
    of the space `answer`: its logit is the product. otherwise: the answer that is said where the circuit says too little.
    blocks: from the first to the last; () is one that does nothing. asked_at: the last place.
    features: things that share a written space, as (name, space, direction in it).
    """

    spaces: Mapping[str, int]
    words: tuple[Word, ...]
    answers: Mapping[str, Vector]
    blocks: tuple[Block, ...]
    asked_at: tuple[str, ...]
    otherwise: str
    d_model: int = 48
    state_size: int = 16
    features: tuple[tuple[str, str, Vector], ...] = ()


#: values as signs: two of a pair (0 and 1, 2 and 3, 4 and 5) differ in each of four, any others in two
SIGNS: tuple[Vector, ...] = (
    (1, -1, 1, -1), (-1, 1, -1, 1), (1, 1, -1, -1), (-1, -1, 1, 1), (1, -1, -1, 1), (-1, 1, 1, -1),
)  # fmt: skip
HIGH, LOW = 1.0, 0.4  # what a sign is written as: never 0, so that every channel of a value always holds something
CODE_SIZE = (2 * (HIGH**2 + LOW**2)) ** 0.5


def code(i: int) -> Vector:
    """The i-th of six values, as the residual stream holds it."""
    return tuple(HIGH if sign > 0 else LOW for sign in SIGNS[i])


def one_hot(i: int, width: int) -> Vector:
    """The i-th of `width` keys."""
    return tuple(1.0 if j == i else 0.0 for j in range(width))
