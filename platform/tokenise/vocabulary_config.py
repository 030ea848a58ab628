"""The settings of a tokenizer that is trained: which texts, how many tokens, how much of the texts."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from ..core.config import Seed
from ..core.errors import UsageError
from ..core.option import Option
from .tokenise_config import TextsConfig

SMALLEST = 257  # all bytes, and the end of a text
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def parse_amount(text: str, option: str) -> int:
    """`8k`, `50MB`, `1.5M` as a whole number, in powers of ten. Raises UsageError for anything else or below 1."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmg]?)b?\s*", text.lower())
    amount = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if amount < 1 or amount != int(amount):
        raise UsageError(f"{option} {text}: is not an amount; write it as 8k, 50MB or a whole number")
    return int(amount)


class VocabularyConfig(TextsConfig):
    """Everything that decides a trained tokenizer."""

    vocab: Annotated[
        int, Option(metavar="8k", parse=parse_amount, help="Tokens, with those of all bytes; default 8k (8000).")
    ] = Field(8000, ge=SMALLEST, le=2**22)
    """Tokens, with those of all 256 bytes and the end of a text."""
    sample: Annotated[
        int, Option(metavar="50MB", parse=parse_amount, help="Bytes of text to train on; default 50MB.")
    ] = Field(50_000_000, ge=1)
    """Bytes of text (UTF-8) to train on; all of them where there are fewer."""
    seed: Seed = 0
    """Of the choice of documents."""
