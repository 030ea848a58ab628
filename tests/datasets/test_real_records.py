"""Every record of the real files is read, and survives the way into the hub's schema and back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from mplat.datasets.reading import read
from mplat.datasets.records import from_table, to_table
from mplat.datasets.sources.finding import DataSetFiles, find
from mplat.datasets.sources.hf_rows import convert

# What SOURCE.md beside the files says: questions by file. A long document has several.
COUNTS = {
    "squad": {"dev_part_a.json.gz": 4961, "train_part.json.gz": 11877},
    "squad_v2": {"dev_part_a.json.gz": 3782, "validation_hf.jsonl.zst": 536},
    "hotpotqa": {"hotpot_distractor.jsonl.zst": 446},
    "triviaqa": {
        "official_rc_wikipedia-dev.json": 2,
        "official_rc_wikipedia-train.json": 4,
        "triviaqa_open.jsonl.zst": 662,
    },
    "musique": {"musique_ans.jsonl.zst": 200},
    "drop": {
        "drop_contrast_sets.json.gz": 493,
        "drop_dataset_dev_sample.json.gz": 73,
        "drop_dataset_train_sample.json.gz": 281,
        "drop_dev_refs.jsonl.zst": 4908,
    },
    "natural_questions": {
        "efficientqa_dev.jsonl.zst": 1800,
        "nq_long_documents_leval.jsonl.zst": 59,
        "nq_open_dev.jsonl.zst": 2410,
        "nq_open_oracle.jsonl.zst": 1788,
        "nq_original_dev_1record.json.gz": 1,
        "nq_simplified_test_1record.json.gz": 1,
        "nq_simplified_train_1record.json.gz": 1,
    },
}


LARGE = {"squad", "drop", "natural_questions"}  # ten seconds of a processor each


@pytest.fixture(scope="module")
def found(shared_data: Path) -> dict[str, DataSetFiles]:
    """The files of every data set that has any."""
    return find(COUNTS, shared_data, whatever_is_there=True)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in COUNTS])
def test_every_real_record_of_every_file_is_read_and_survives_the_other_schema(
    name: str, found: dict[str, DataSetFiles], tmp_path: Path
) -> None:
    if name not in found:
        pytest.skip(f"no {name} file present")
    counts = {path.name: COUNTS[name][path.name] for path in found[name].files}
    ids: Counter[str] = Counter()
    for path in found[name].files:
        once = read(name, path)
        assert len(once.questions) == once.report.records == counts[path.name] and not once.report.bad
        some = once.questions[::10]  # the way through Arrow is the same for all, and slow for long documents
        assert from_table(to_table(some)) == list(some)
        ids.update(question.id for question in once.questions)
        if counts[path.name] > 4961:  # a second file of the same kind
            continue
        again = read(name, convert(name, path, tmp_path / path.name, suffix=".jsonl.zst"))
        order = {question.id: number for number, question in enumerate(once.questions)}
        assert sorted(again.questions, key=lambda question: order[question.id]) == list(once.questions)
    assert ids.total() == len(ids) == sum(counts.values())
