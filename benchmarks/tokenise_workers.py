"""How much faster two workers make tokens than one: megabytes of UTF-8 a second by the clock, `mplat tokenize`.

Usage: python benchmarks/tokenise_workers.py [--copies 48] [--data ../shared/data] [--turns 3] [--out FILE]

The texts are the Pile's test documents under DATA/pile, `--copies` times in one plain .jsonl file; the tokenizer is a
byte-level BPE of 8,192 tokens trained on them. One and two Ray workers take turns. The clock runs from the first part
that is begun to the last that is done, as the run's ledger has them: Ray's start is not in it, nor is putting the parts
together. The second worker may come up some seconds after the first, which counts: the file has to be a large one. Run
it on a machine with two idle cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import zstandard
from mplat.runtime.ledger import LEDGER_NAME, read_ledger

RESULTS = Path(__file__).parent / "results" / "tokenise_workers.json"


def mplat(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "mplat", *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def seconds(out: Path) -> float:
    """From the first part that is begun to the last that is done."""
    (ledger,) = out.glob(f"work/tokens-*/{LEDGER_NAME}")
    entries = read_ledger(ledger).entries.values()
    return max(e.at for e in entries) - min(e.at - e.seconds for e in entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=48)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        packed = options.data / "pile" / "pile_test_permissive.jsonl.zst"
        with zstandard.open(packed, "rb") as file:
            records = file.read()
        text = sum(len(json.loads(line)["text"].encode()) for line in records.splitlines())
        (place / "once.jsonl").write_bytes(records)
        (place / "texts.jsonl").write_bytes(records * options.copies)
        mplat("tokenizer", "train", str(place / "once.jsonl"), "--vocab", "8192", "--out", str(place / "tokenizer"))
        taken: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(options.turns):
            for workers in (1, 2):
                out = place / f"tokens-{workers}-{turn}"
                mplat("tokenize", str(place / "texts.jsonl"), "--tokenizer", str(place / "tokenizer"), "--address",
                      "local", "--actors", str(workers), "--set", "keep_parts=true", "--out", str(out))  # fmt: skip
                taken[workers].append(seconds(out))
    one, two = (statistics.median(taken[workers]) for workers in (1, 2))
    found = {
        "megabytes": text * options.copies / 1e6,
        "seconds": {str(workers): times for workers, times in taken.items()},
        "megabytes_per_second": {"1": text * options.copies / 1e6 / one, "2": text * options.copies / 1e6 / two},
        "two_workers_against_one": one / two,
    }
    rendered = json.dumps(found, indent=2) + "\n"
    options.out.write_text(rendered)
    sys.stdout.write(rendered)


if __name__ == "__main__":
    main()
