"""Answers judged per second of CPU time by each metric: what one core does that has nothing else to do.

Usage: python benchmarks/metrics.py [--repeats 5] [--threads 1]

The items are made up in the proportions of the real sets: answers of one to six words, three human answers in SQuAD,
eight aliases in TriviaQA; of the DROP questions 62% have a number, 8% several spans, and 38% have validated answers.
A third of the predictions is right, a third overlaps, a third is wrong. There is no peer: the official scripts are no
packages. Below the promised speed the script fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

# not the folder of this script: its name is that of a module
sys.path[0] = str(Path(__file__).parent / "side_by_side")

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from mplat.scoring import metrics
from timing import Results, arguments

ITEMS = 2_000
REQUIRED = {"squad_v1": 10_000, "squad_v2": 10_000, "drop": 2_000}  # items per second
WORDS = (
    "the of a in Denver Broncos Carolina Panthers field goal yard quarterback U.S. twenty-one café 1,000 Super Bowl "
    "Levi's Stadium Santa Clara California gold anniversary February touchdown pass intercepted first second half"
).split()
SPAN = {"start_byte": 10, "end_byte": 90, "start_token": 1, "end_token": 9}


def text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 6)))


def guess(rng: random.Random, answer: str) -> str:
    """Right, overlapping or wrong, a third each."""
    return rng.choice([answer, f"{text(rng)} {answer}", text(rng)])


def texts(n: int) -> Callable[[random.Random], tuple[str, Any]]:
    """Items whose gold is a list of `n` texts."""

    def item(rng: random.Random) -> tuple[str, Any]:
        golds = [text(rng) for _ in range(n)]
        return guess(rng, rng.choice(golds)), golds

    return item


def one_text(rng: random.Random) -> tuple[str, Any]:
    gold = text(rng)
    return guess(rng, gold), gold


def drop_answer(rng: random.Random) -> dict[str, Any]:
    answer: dict[str, Any] = {"number": "", "spans": [], "date": {"day": "", "month": "", "year": ""}}
    kind = rng.random()
    if kind < 0.62:
        answer["number"] = str(rng.randint(0, 99))
    elif kind < 0.98:
        answer["spans"] = [text(rng) for _ in range(1 if kind < 0.9 else rng.randint(2, 4))]
    else:
        answer["date"] = {"day": "8", "month": "March", "year": "2010"}
    return answer


def drop(rng: random.Random) -> tuple[Any, Any]:
    answer = drop_answer(rng)
    golds = [answer, *(drop_answer(rng) for _ in range(2 if rng.random() < 0.38 else 0))]
    if answer["spans"]:
        return [guess(rng, span) for span in answer["spans"]], golds
    return guess(rng, answer["number"] or "8 March 2010"), golds


def drop_text(rng: random.Random) -> tuple[str, Any]:
    prediction, golds = drop(rng)
    return prediction if isinstance(prediction, str) else " and ".join(prediction), golds


def annotated(rng: random.Random) -> tuple[Any, Any]:
    gold = [{"long_answer": SPAN, "short_answers": [SPAN], "yes_no_answer": "NONE"} for _ in range(5)]
    return gold[0] if rng.random() < 0.5 else {"long_answer": {**SPAN, "end_byte": 91, "end_token": 10}}, gold


MADE: dict[str, Callable[[random.Random], tuple[Any, Any]]] = {
    "squad_v1": texts(3),
    "squad_v2": texts(3),
    "hotpotqa": one_text,
    "musique": texts(2),
    "triviaqa": texts(8),
    "nq_open": texts(2),
    "drop": drop,
    "natural_questions": annotated,
    "lm_eval_triviaqa": texts(8),
    "lm_eval_nq_open": texts(2),
    "lm_eval_drop": drop_text,
    "lm_eval_squadv2": texts(3),
    "lm_eval_squad_completion": one_text,
    "lm_eval_longbench_qa_f1": texts(1),
}


def measure(results: Results, name: str) -> None:
    rng = random.Random(0)
    items = [MADE[name](rng) for _ in range(ITEMS)]

    turns = []
    for turn in range(results.repeats + 1):
        start = time.process_time()
        for prediction, gold in items:
            metrics.score(name, prediction, gold)
        turns += [time.process_time() - start] if turn else []  # the first one warms up
    seconds = statistics.median(turns)
    rate = ITEMS / seconds
    measured = {"turns": len(turns), "seconds": {"mplat": seconds}, "ratio": {}}
    results.add(f"metric {name}, {ITEMS} items", measured, items_per_second=rate)
    assert rate >= REQUIRED.get(name, 0), f"{name}: {rate:,.0f} items a second, {REQUIRED[name]:,} are promised"


def main() -> None:
    results = Results("metrics", arguments(__doc__, repeats=7))
    for name in MADE:
        measure(results, name)
    results.write()


if __name__ == "__main__":
    main()
