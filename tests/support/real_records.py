"""Published tokenizers and real questions where they are there; not a test file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from mplat.datasets.reading import read
from mplat.datasets.records import Question
from transformers import PreTrainedTokenizerFast

FILES = {
    "squad": "squad_v1/dev_part_a.json.gz",
    "hotpotqa": "hotpotqa/hotpot_distractor.jsonl.zst",
    "musique": "musique/musique_ans.jsonl.zst",
    "drop": "drop/drop_dataset_dev_sample.json.gz",
    "natural_questions": "natural_questions/nq_simplified_train_1record.json.gz",
}


@cache
def published(shared_data: Path, name: str) -> PreTrainedTokenizerFast:
    """A published tokenizer; the test is skipped where it is not there."""
    folder = shared_data / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)


@cache
def real_questions(shared_data: Path, name: str, count: int) -> list[Question]:
    """At most `count` questions of a data set, at equal steps of a file; the test is skipped where it is not there."""
    path = shared_data / FILES[name]
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    found = read(name, path).questions
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]
