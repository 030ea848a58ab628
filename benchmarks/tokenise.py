"""Megabytes of UTF-8 that become token ids per second of processor time, one thread: `Encoder` and the library.

Usage: python benchmarks/tokenise.py [--repeats 3] [--data ../shared/data] [--megabytes 2]

The texts are the Pile's test documents under DATA/pile; the tokenizers byte-level BPE of 8,192 tokens trained on them,
and the published ones under DATA/tokenizers. `mplat` starts with an empty table of words in each turn; `known` are the
same texts once more, all of whose words the table holds: what a corpus tends to that is much longer. The library
encodes the first documents up to `--megabytes`, for its speed does not depend on how many there are, with
`encode_batch_fast` and, apart, two threads (by the clock). Its seconds in
the results are those of all texts at that speed. The ids of these documents are compared.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "side_by_side"))
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read at each call of the library
os.environ.setdefault("RAYON_NUM_THREADS", "2")

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import zstandard
from mplat.datasets.tokens.encoding import Encoder
from timing import Results, arguments
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

VOCABULARY = 8192


def documents(data: Path) -> list[str]:
    with zstandard.open(data / "pile" / "pile_test_permissive.jsonl.zst", "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line)["text"] for line in file]


def trained(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def size(texts: list[str]) -> float:
    """Megabytes of UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def first(texts: list[str], megabytes: int) -> list[str]:
    ends = np.cumsum([len(text.encode()) for text in texts])
    return texts[: int(np.searchsorted(ends, megabytes * 1_000_000)) + 1]


def spent(run: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    run()
    return clock() - start


def measure(results: Results, name: str, tokenizer: Tokenizer, texts: list[str], few: list[str]) -> None:
    ids, offsets = Encoder(tokenizer).ids(few)  # compiles, or reads what was compiled
    for i, one in enumerate(tokenizer.encode_batch_fast(few, add_special_tokens=False)):
        assert ids[offsets[i] : offsets[i + 1]].tolist() == one.ids, f"{name}: other ids in document {i}"

    def library() -> object:
        return tokenizer.encode_batch_fast(few, add_special_tokens=False)

    turns: list[dict[str, float]] = []
    for _ in range(results.repeats):
        encoder = Encoder(tokenizer)
        turn = {"mplat": size(texts) / spent(lambda: encoder.ids(texts))}  # noqa: B023
        turn["known"] = size(texts) / spent(lambda: encoder.ids(texts))  # noqa: B023
        turn["library"] = size(few) / spent(library)
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        turn["library, two threads, by the clock"] = size(few) / spent(library, time.perf_counter)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        turns.append(turn)
    rates = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    measured = {
        "turns": len(turns),
        "seconds": {"mplat": size(texts) / rates["mplat"], "library": size(texts) / rates["library"]},
        "ratio": {"library": statistics.median(turn["mplat"] / turn["library"] for turn in turns)},
    }
    results.add(f"{name}, {size(texts):.1f} MB", measured, way=Encoder(tokenizer).way, mb_per_second=rates)
    for key, rate in rates.items():
        print(f"    {key}: {rate:.1f} MB/s")


def main() -> None:
    options = arguments(__doc__, repeats=3, data="../shared/data", megabytes=2)
    results = Results("tokenise", options)
    data = Path(options.data)
    texts = documents(data)
    few = first(texts, options.megabytes)
    measure(results, f"trained on these texts, {VOCABULARY} tokens", trained(texts), texts, few)
    for name in ("gpt2", "gpt-neox-20b"):
        tokenizer = Tokenizer.from_file(str(data / "tokenizers" / name / "tokenizer.json"))
        measure(results, name, tokenizer, texts, few)
    results.write()


if __name__ == "__main__":
    main()
