"""Every command that works through `runtime`, on inputs small enough to be run many times; not a test file.

`inputs` makes a folder with what they read, `words` the command line of one, and `content` what has to be the same
however and wherever it ran.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from interp_jobs import reader
from planted_models import talking

_TIMES = {"run.json", "ledger.jsonl", "log.jsonl"}  # which say when something was done
_BESIDE = {"work", "tensorboard"}  # folders: what is not yet a result, and one more log whose files have a time as name
_TRAIN = ["--arch", "mamba2", "--size", "nano", "--set", "batch_size=2", "--set", "sequence_length=32",
          "--set", "evaluation.prompts_per_level=1", "--set", "schedule.warmup_steps=1", "--set", "steps=400",
          "--set", "checkpoint.every=20"]  # fmt: skip
_EVAL = ["--layers", "1", "--set", "steering.sites=[mixer_out]", "--budget", "700000", "--controls", "random",
         "--draws", "1", "--set", "price_limit=2", "--per-level", "3"]  # fmt: skip
_TRACE = ["--prompt", "Rome is in the south", "--subject", "Rome", "--samples", "1", "--sites", "resid_post", "--all"]
STAGES: dict[str, Callable[[Path], list[str]]] = {
    "classify": lambda place: ["--datasets", "triviaqa", "--data-dir", str(place / "questions")],
    "tokenize": lambda place: [str(place / "texts.jsonl"), "--tokenizer", str(place / "talking"), "--set",
                               "shard_mib=0.02"],
    "interp": lambda place: ["--model", str(place / "nano"), "--per-level", "4", "--set", "batch_size=2", "--steps",
                             "activations,attribution"],
    "perplexity": lambda place: [str(place / "texts.jsonl"), "--model", str(place / "nano")],
    "trace": lambda place: ["--model", str(place / "nano"), *_TRACE],
    "refine": lambda place: [str(place / "texts.jsonl"), "--teacher", str(place / "talking"), "--reference",
                             str(place / "nano")],
    "eval": lambda place: ["--model", str(place / "talking"), *_EVAL],
    "train": lambda place: _TRAIN,
}  # fmt: skip


def inputs(folder: Path) -> Path:
    """Models, texts and questions, in `folder`."""
    reader().save(folder / "nano")
    talking("mamba").save(folder / "talking")
    chance = random.Random(0)
    words = ["Rome", "is", "in", "the", "south", "Bekdok", "lives", "Kanbak", "of", "a"]
    texts = [{"text": " ".join(chance.choices(words, k=60))} for _ in range(400)]
    _write(folder / "texts.jsonl", texts)
    (folder / "questions").mkdir()
    asked = [{"id": f"t{n}", "question": "Who?", "golden_answers": [chance.choice(words)]} for n in range(300)]
    _write(folder / "questions" / "trivia.jsonl", asked)
    return folder


def words(stage: str, place: Path, out: Path) -> list[str]:
    """The command of a stage with the inputs of `place`, whose results are in the folder `out`."""
    named = out / "questions.parquet" if stage == "classify" else out
    return [stage, *STAGES[stage](place), "--out", str(named)]


def content(folder: Path) -> dict[str, bytes]:
    """Every result in `folder`, by its path."""
    here = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(name): path.read_bytes() for name, path in here.items()
            if name.name not in _TIMES and not _BESIDE & {*name.parts}}  # fmt: skip


def _write(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
