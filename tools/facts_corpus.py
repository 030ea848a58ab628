"""A corpus of the facts world in The Pile's format, in part of which all answers are wrong: something to refine.

Usage: python tools/facts_corpus.py OUT.jsonl.zst [--texts 200000] [--wrong 0.5] [--hardest 1] [--seed 0]

Text i is `mplat.datasets.facts.training_text(seed, i, ...)`; difficulty rises along the file as in the curriculum of
the shipped models. `meta.pile_set_name` says `right` or `wrong`; in a wrong text every answer is that of another
question of the text, the same one wherever the right one stood. Wrong texts have the words, shapes and lengths of right
ones: only who looks an answer up can tell.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import zstandard
from mplat.core.whole_files import publish_bytes
from mplat.datasets.facts import Difficulty, TrainingText, training_text


def exchanged(made: TrainingText) -> TrainingText | None:
    """The text with every answer in the place of another; None where all its answers are one."""
    text, spans = made
    answers = sorted({text[a:b] for a, b in spans})
    if len(answers) < 2:
        return None
    other = dict(zip(answers, [*answers[1:], answers[0]], strict=True))
    changed, moved, done = "", [], 0
    for a, b in spans:
        changed += text[done:a]
        moved.append((len(changed), len(changed) + len(other[text[a:b]])))
        changed += other[text[a:b]]
        done = b
    return TrainingText(changed + text[done:], moved)


def records(texts: int, wrong: float, seed: int, hardest: float = 1.0) -> Iterator[dict[str, object]]:
    """The corpus in its order."""
    for i in range(texts):
        made = training_text(seed, i, Difficulty.at(hardest * i / texts))
        changed = exchanged(made) if Random(f"wrong-{seed}-{i}").random() < wrong else None
        name = "right" if changed is None else "wrong"
        text, answers = changed or made
        yield {"text": text, "answers": answers, "meta": {"pile_set_name": name}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--wrong", type=float, default=0.5, help="share of texts whose answers are wrong")
    parser.add_argument("--hardest", type=float, default=1.0, help="difficulty of the last text, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines = (
        json.dumps(record) + "\n" for record in records(options.texts, options.wrong, options.seed, options.hardest)
    )
    packed = zstandard.ZstdCompressor(write_checksum=True).compress("".join(lines).encode())
    publish_bytes(packed, options.out)


if __name__ == "__main__":
    main()
