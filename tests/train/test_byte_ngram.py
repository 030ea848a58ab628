"""The n-gram model of benchmarks/byte_ngram.py against its definition, written with dictionaries."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "byte_ngram.py"
TEXTS = [b"abracadabra alakazam", b"abba cab", b"a", b"the cat sat on the mat", b"\x00\xff\x00\xff"]
Gram = tuple[int, ...]


@pytest.fixture(scope="module")
def ngram() -> ModuleType:
    spec = importlib.util.spec_from_file_location("byte_ngram", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["byte_ngram"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def counts_of(texts: list[bytes], order: int) -> list[Counter[Gram]]:
    """By length: how often each n-gram was seen; below the longest, how many symbols were seen before it."""
    seen: list[list[Gram]] = [[] for _ in range(order + 1)]
    for text in texts:
        padded = [256] * (order - 1) + list(text)
        for end in range(order, len(padded) + 1):
            for n in range(1, order + 1):
                seen[n].append(tuple(padded[end - n : end]))
                if n < order:
                    seen[n][-1] = tuple(padded[end - n - 1 : end])  # with the symbol before
    return [Counter(seen[n]) if n == order else Counter(each[1:] for each in set(seen[n])) for n in range(1, order + 1)]


def probability(counts: list[Counter[Gram]], history: Gram, byte: int) -> float:
    """Chen and Goodman's equation, from the unigrams up."""
    found = 1 / 256
    for n, of in enumerate(counts, start=1):
        have = Counter(of.values())
        one, two, three, four = (max(have[k], 1) for k in (1, 2, 3, 4))
        y = one / (one + 2 * two)
        limits = ((1 - 2 * y * two / one, 1), (2 - 3 * y * three / two, 2), (3 - 4 * y * four / three, 3))
        discounts = [0.0, *(min(max(value, 0.1), most) for value, most in limits)]
        context = history[len(history) - (n - 1) :]
        after = {gram[-1]: count for gram, count in of.items() if gram[:-1] == context}
        total = sum(after.values())
        if total:
            held_back = sum(discounts[min(count, 3)] for count in after.values())
            count = after.get(byte, 0)
            found = (max(count - discounts[min(count, 3)], 0) + held_back * found) / total
    return found


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_its_definition(ngram: ModuleType, order: int) -> None:
    model, counts = ngram.ByteNgram(TEXTS, order), counts_of(TEXTS, order)
    text = b"a cadabra mat\xfe\x00"
    padded = [256] * (order - 1) + list(text)
    wanted = [
        probability(counts, tuple(padded[at : at + order - 1]), padded[at + order - 1]) for at in range(len(text))
    ]
    assert np.allclose(model.probabilities([text]), wanted, rtol=1e-12)
    assert np.isclose(model.nats([text, text]), -2 * np.log(wanted).sum())


def test_probabilities_of_all_bytes_sum_to_one(ngram: ModuleType) -> None:
    model = ngram.ByteNgram(TEXTS, 4)
    for history in (b"", b"a", b"abr", b"zzzz", b"\xff\x00"):
        every = [model.probabilities([history + bytes([byte])])[-1] for byte in range(256)]
        assert sum(every) == pytest.approx(1.0, abs=1e-12)
        assert min(every) > 0
