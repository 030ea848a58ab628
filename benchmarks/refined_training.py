"""What a refined corpus changes in the model trained on it: two models, as many tokens, the same new questions.

Usage: python benchmarks/refined_training.py REFINED UNREFINED [--per-level 300] [--seed 21] [--out FILE]

REFINED and UNREFINED are models (folders or names) trained by one recipe on the refined half and on the whole corpus;
docs/refine.md has the commands. Both answer `--per-level` questions of every level of the facts world, greedily, from
a seed that no training watched. Exact match of both by level, with Wilson's intervals, and the paired difference with
its interval and p-value, goes to results/refined_training.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from mplat.datasets.facts import prompts
from mplat.datasets.records import Question
from mplat.models import load
from mplat.scoring.metrics import score
from mplat.scoring.statistics import paired_difference, wilson

RESULTS = Path(__file__).parent / "results" / "refined_training.json"
BATCH = 100


def exact_match(name: str, questions: list[Question]) -> list[float]:
    """1 or 0 for every question."""
    model = load(name)
    found: list[float] = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        answers = model.generate([q.prompt or "" for q in batch], 8)
        found += [score("squad_v1", a, list(q.answers)).em or 0.0 for q, a in zip(batch, answers, strict=True)]
    return found


def compared(level: str, refined: list[float], unrefined: list[float]) -> dict[str, Any]:
    """Shares and intervals of one level."""
    row: dict[str, Any] = {"level": level, "questions": len(refined)}
    for name, values in (("refined", refined), ("unrefined", unrefined)):
        found = wilson(values)
        row[name] = {"exact_match": found.mean, "low": found.low, "high": found.high}
    change = paired_difference(refined, unrefined, seed=0)
    return row | {"difference": {"mean": change.mean, "low": change.low, "high": change.high, "p": change.p}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("refined")
    parser.add_argument("unrefined")
    parser.add_argument("--per-level", type=int, default=300)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    questions = prompts(per_level=options.per_level, seed=options.seed)
    refined, unrefined = (exact_match(name, questions) for name in (options.refined, options.unrefined))
    rows = []
    for level in [*sorted({q.level for q in questions if q.level is not None}), None]:
        chosen = [i for i, q in enumerate(questions) if level is None or q.level == level]
        name = "all" if level is None else str(level)
        rows.append(compared(name, [refined[i] for i in chosen], [unrefined[i] for i in chosen]))
    text = json.dumps({"per_level": options.per_level, "seed": options.seed, "rows": rows}, indent=2) + "\n"
    options.out.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
