"""Values that commands take as lists in one word, such as `--layers 0,6,12` and `--strength 0.5,1,2`.

Every function returns checked values or raises UsageError with the allowed range; nothing is clipped, repaired or
taken twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .errors import UsageError, suggest


def parse_layers(text: str, n_layers: int, *, option: str = "--layers") -> list[int]:
    """`0,3,5` or `2-4` or `all` as sorted block numbers of a model with `n_layers` blocks; UsageError for others."""
    if text.strip() == "all":
        return list(range(n_layers))
    layers: list[int] = []
    for word in _words(text, option):
        first, dash, last = word.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"{option} {text!r}: {word!r} is not a block number; {_layer_range(n_layers)}")
        start, end = int(first), int(last) if dash else int(first)
        if end >= n_layers or start > end:
            raise UsageError(f"{option} {text!r}: there is no block {word}; {_layer_range(n_layers)}")
        layers += range(start, end + 1)
    _refuse_duplicates(layers, text, option)
    return sorted(layers)


def parse_numbers(
    text: str, *, low: float, high: float, option: str, low_included: bool = True, high_included: bool = True
) -> list[float]:
    """`0.5,1,2` as finite numbers in the order given; UsageError where one is not within the range."""
    numbers: list[float] = []
    allowed = f"{'' if low_included else 'above '}{low:g} to {'' if high_included else 'below '}{high:g}"
    for word in _words(text, option):
        try:
            number = float(word)
        except ValueError:
            raise UsageError(f"{option} {text!r}: {word!r} is not a number; allowed: {allowed}") from None
        inside = (low <= number if low_included else low < number) and (
            number <= high if high_included else number < high
        )
        if not math.isfinite(number) or not inside:
            raise UsageError(f"{option} {text!r}: {word} is out of range; allowed: {allowed}")
        numbers.append(number)
    _refuse_duplicates(numbers, text, option)
    return numbers


def parse_counts(text: str, *, high: int, option: str) -> list[int]:
    """`0,64,256` as whole numbers from 0 to `high`, in the order given; UsageError for others."""
    counts: list[int] = []
    for word in _words(text, option):
        if not (word.isascii() and word.isdecimal()) or int(word) > high:
            raise UsageError(f"{option} {text!r}: {word!r} is no whole number from 0 to {high}")
        counts.append(int(word))
    _refuse_duplicates(counts, text, option)
    return counts


def parse_names(text: str, valid: Iterable[str], *, option: str) -> list[str]:
    """`squad,hotpotqa` or `all` as known names, in the order given; UsageError, with the nearest, for others."""
    known = list(valid)
    if text.strip() == "all":
        return known
    names = _words(text, option)
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {text!r}: unknown name {name!r}; {suggest(name, known)}")
    _refuse_duplicates(names, text, option)
    return names


def parse_words(text: str, option: str) -> list[str]:
    """`h,h_post+conv_state` as words in the order given; what they mean is for others to check."""
    words = _words(text, option)
    _refuse_duplicates(words, text, option)
    return words


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} {text!r}: an entry is empty; write them like 1,2,3")
    return words


def _layer_range(n_layers: int) -> str:
    return f"allowed: 0 to {n_layers - 1}, ranges such as 0-{n_layers - 1}, or all"


def _refuse_duplicates(values: list[int] | list[float] | list[str], text: str, option: str) -> None:
    twice = sorted({str(v) for v in values if values.count(v) > 1})  # type: ignore[arg-type]
    if twice:
        raise UsageError(f"{option} {text!r}: {', '.join(twice)} is given more than once")
