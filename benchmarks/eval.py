"""200 questions behind one header of five worked examples, asked through lm-evaluation-harness: the model class `mplat`
beside the harness's own class for Hugging Face models (`hf`), on the same weights and in the same process.

The tiny Mamba is the shipped one; the 130m shape has random weights. Both classes read 16 prompts together, and have
answered 16 questions alike before they are timed. The peer takes minutes a row, so that a turn is all there is by
default; the load of the machine when it began is in the file. Needs the extra `lm-eval`.

Usage: python benchmarks/eval.py [--repeats 1] [--threads 2] [--questions 200] [--shapes tiny,130m]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

# not the folder of this script, whose names are those of packages
sys.path[0] = str(Path(__file__).parent / "side_by_side")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from mplat.datasets import facts
from mplat.eval.harness.harness_model import HarnessModel
from mplat.models import build, load
from peers import SHAPES
from timing import Results, arguments, seconds
from transformers import AutoModelForCausalLM

BATCH = WARM = 16
Ask = Callable[[Any, list[Instance]], list[Any]]


def contestants(shape: str) -> dict[str, Any]:
    """Our class and the harness's own on the same weights; texts by the shipped tokenizer."""
    ours = load("tiny-mamba")
    tokenizer = ours.tokenizer
    if shape != "tiny":
        ours = build(SHAPES[f"mamba-{shape}"], seed=0).eval()
        ours.tokenizer = tokenizer
    with tempfile.TemporaryDirectory() as folder:
        theirs = AutoModelForCausalLM.from_pretrained(ours.save(folder)).eval()
    return {
        "mplat": HarnessModel(ours, batch_size=BATCH),
        "hf": cast(Any, HFLM)(pretrained=theirs, tokenizer=tokenizer, batch_size=BATCH),
    }


def asked(count: int) -> tuple[str, list[tuple[str, str]]]:
    """A header of five examples, and (prompt behind it, answer) of `count` questions, as many of each level."""
    header = str(facts.prompts(1, shots=5)[0].prompt).removesuffix(str(facts.prompts(1)[0].prompt))
    questions = facts.prompts(-(-count // len(facts.LEVELS)))
    step = len(questions) / count
    chosen = [questions[int(i * step)] for i in range(count)]
    return header, [(f"{header}{q.prompt}", f" {q.answers[0]}") for q in chosen]


def likelihood(model: Any, requests: list[Instance]) -> list[Any]:
    return model.loglikelihood(requests, disable_tqdm=True)


def generation(model: Any, requests: list[Instance]) -> list[Any]:
    return model.generate_until(requests, disable_tqdm=True)


def same(a: Any, b: Any) -> bool:
    return a == b if isinstance(a, str) else abs(a[0] - b[0]) < 1e-3 and a[1] == b[1]


def measure(results: Results, shape: str, count: int) -> None:
    both = contestants(shape)
    header, questions = asked(count)
    options = {"until": ["\n"], "max_gen_toks": 8}
    kinds: dict[str, tuple[Ask, list[Instance]]] = {
        "log-likelihood": (likelihood, [Instance("loglikelihood", {}, each, 0) for each in questions]),
        "8 new tokens": (generation, [Instance("generate_until", {}, (q, dict(options)), 0) for q, _ in questions]),
    }
    for kind, (ask, requests) in kinds.items():
        answers = [ask(model, requests[:WARM]) for model in both.values()]
        agree = sum(same(a, b) for a, b in zip(*answers, strict=True))
        assert agree >= 0.9 * len(answers[0]), f"{shape}, {kind}: only {agree} of {len(answers[0])} answers agree"
        calls = {name: partial(ask, model, requests) for name, model in both.items()}
        turns = [{name: seconds(call) for name, call in calls.items()} for _ in range(results.repeats)]
        measured = {
            "turns": len(turns),
            "seconds": {name: median(turn[name] for turn in turns) for name in calls},
            "ratio": {"hf": median(turn["hf"] / turn["mplat"] for turn in turns)},
        }
        what = f"{kind}, {shape} mamba, {len(requests)} questions behind a header of {len(header.split())} words"
        results.add(what, measured, questions_per_second=len(requests) / measured["seconds"]["mplat"])


def main() -> None:
    logging.disable(logging.WARNING)
    options: argparse.Namespace = arguments(__doc__, repeats=1, questions=200, shapes="tiny,130m")
    results = Results("eval", options)
    results.about["load"] = round(os.getloadavg()[0], 1)
    for shape in options.shapes.split(","):
        measure(results, shape, options.questions)
    results.write()


if __name__ == "__main__":
    main()
