"""A classification as a run: its settings, its record beside the table, and the folder by which it continues.

Several tables may lie in one folder, so everything of a run has the name of its table: `questions.parquet`,
`questions.summary.json`, `questions.run.json`, and `questions.work/` until it is done. A former table is replaced.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from ...core.config import Config, Seed
from ...core.observer import Observer
from ...core.whole_files import sha256_of
from ...runtime.plan import digest_of
from ...runtime.session import Session
from ...runtime.stage import Planned, Stage
from ..reading import FAIL_OVER
from .classifying import Gathered, classify_gathered, summary_path, write
from .token_counts import TINY

STAGE = Stage("classify")


class ClassifyConfig(Config):
    """Everything that decides the sample; where it runs is not part of it."""

    datasets: tuple[str, ...] | None = None
    """Data sets that must be there; null: those that are."""
    data_dir: str | None = None
    """Folder of the data files, searched by content; or one file."""
    hub: tuple[str, ...] = ()
    """In place of a folder: these splits of the pinned copies on the Hugging Face hub."""
    per_dataset: int = Field(500, ge=0)
    """At most so many questions of a data set; 0: all."""
    per_category: int = Field(100, ge=0)
    """At most so many questions of a category; 0: all."""
    rule_set: str = "evidence"
    """evidence: real sentences and marked evidence; source: lengths and words."""
    tokenizer: str = TINY
    """What tokens are counted with."""
    fail_over: float = Field(default=FAIL_OVER, ge=0, le=1)
    """Share of bad records that is tolerated."""
    seed: Seed = 0


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
        result = classify_gathered(
            gathered, rule_set=config.rule_set, tokenizer=config.tokenizer, per_dataset=config.per_dataset,
            per_category=config.per_category, seed=config.seed, session=session, work=work,
            progress=run.observer.progress,
        )  # fmt: skip
        summary = write(result, path)
        written = (path, summary_path(path))
        run.update(
            files={one.name: sha256_of(one.read_bytes()) for one in written},
            counts={name: entry["taken"] for name, entry in summary["categories"].items()},
            details={"tokenizer": summary["tokenizer"]},
        )
    shutil.rmtree(work)
    return summary
