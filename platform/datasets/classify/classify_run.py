"""A classification as a run: its settings, its record beside the table, and the folder by which it continues.

Several tables may lie in one folder, so everything of a run has the name of its table: `questions.parquet`,
`questions.summary.json`, `questions.run.json`, and `questions.work/` until it is done. A former table is replaced.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from ...core.errors import UsageError
from ...core.observer import Observer
from ...core.whole_files import sha256_of
from ...runtime.plan import digest_of
from ...runtime.session import Session
from ...runtime.stage import Planned, Stage
from ..data_set import names as data_sets
from .classify_config import ClassifyConfig
from .classifying import Classification, Gathered, check, classify_gathered, gather, summary_path, write
from .token_counts import open_counter

STAGE = Stage("classify")
HUB_DATASETS = ("squad", "hotpotqa", "triviaqa")  # read from the hub where none is named


def gather_chosen(config: ClassifyConfig) -> Gathered:
    """What `config` asks for, read. Everything wrong in it that needs no data is said before; raises as `gather`."""
    if config.hub and config.data_dir is not None:
        raise UsageError("--data-dir and --hub name two places to read from; give one of them")
    check(config.rule_set, config.per_dataset, config.per_category)
    open_counter(config.tokenizer)
    names = config.datasets or (HUB_DATASETS if config.hub else data_sets())
    return gather(
        names, config.data_dir or "data", hub=config.hub, fail_over=config.fail_over,
        whatever_is_there=config.datasets is None,
    )  # fmt: skip


def judge(gathered: Gathered, config: ClassifyConfig, **how: Any) -> Classification:
    """`classify_gathered` as `config` says; `how`: its session, work and progress."""
    return classify_gathered(
        gathered, rule_set=config.rule_set, tokenizer=config.tokenizer, per_dataset=config.per_dataset,
        per_category=config.per_category, seed=config.seed, **how,
    )  # fmt: skip


def planned(config: ClassifyConfig, gathered: Gathered) -> Planned:
    """The run that draws from `gathered`."""
    bad = Counter[str]()
    for reading in gathered.readings.values():
        bad.update(reading.report.bad)
    return STAGE.plan(
        config,
        data={
            "digest": digest_of(gathered.items),
            "counts": {name: reading.report.questions for name, reading in gathered.readings.items()},
            "left_out": dict(bad),
        },
        seeds={"seed": config.seed},
        plan={"data_sets": list(gathered.readings)},
    )


def classify_into(
    path: Path, gathered: Gathered, config: ClassifyConfig, *, session: Session, observer: Observer | None = None
) -> dict[str, Any]:
    """Classify `gathered` and write the table `path`, its summary and its record; returns the summary.

    Raises as `classify_gathered` does, and UsageError where another run writes the same table or nothing can be written
    there.
    """
    named = planned(config, gathered).begin(path.parent, name=path.stem, session=session, observer=observer)
    with named as run:
        work = path.with_suffix(".work")
        result = judge(gathered, config, session=session, work=work, progress=run.observer.progress)
        summary = write(result, path)
        written = (path, summary_path(path))
        run.update(
            files={one.name: sha256_of(one.read_bytes()) for one in written},
            counts={name: entry["taken"] for name, entry in summary["categories"].items()},
            details={"tokenizer": summary["tokenizer"]},
        )
    shutil.rmtree(work)
    return summary
