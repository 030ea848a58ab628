"""`mplat classify`: sort the questions of data sets into seven categories and draw a balanced sample of them.

Without `--out` nothing is written; the tables are shown. With it the questions are one Parquet file, and the summary
lies beside it as JSON. The files are the same, byte for byte, for the same data and arguments, wherever the questions
are judged. With `--address auto` and no RAY_ADDRESS, Ray is not started for a few shards, which take less time than it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .frame.command import command
from .frame.folders import refuse_other_file, writable_folder
from .frame.options import as_path
from .frame.run import At, Outcome, Run, Typed

if TYPE_CHECKING:
    from ..datasets.classify.classify_config import ClassifyConfig

FEW_SHARDS = 8


@command(
    "classify",
    order=24,
    config="datasets.classify.classify_config.ClassifyConfig",
    without=("--out", "--fresh", "--gpus-per-actor"),
)
def classify(
    typed: Typed[ClassifyConfig],
    file: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.parquet", parser=as_path, help="File for the questions; none: tables only."
        ),
    ] = None,
) -> Run:
    """Sort questions into categories by their evidence, each with the reason, and draw a balanced sample."""
    from ..datasets.classify import in_words
    from ..datasets.classify.classify_run import classify_into, gather_chosen, judge
    from ..datasets.classify.classifying import summary_path

    config, written = typed.config, None if typed.shared.dry_run else file
    if file is not None:
        refuse_other_file(file, ".parquet", "the questions are a Parquet file")
    if written is not None:
        writable_folder(written.parent)
    gathered = gather_chosen(config)
    if gathered.missing:
        missing = ", ".join(gathered.missing)
        typed.output.say(f"not there and left out: {missing}; --datasets says which must be there")
    many = len(gathered.items) > FEW_SHARDS

    def work(at: At) -> Outcome:
        if written is None:
            progress = at.console.progress if many else None
            summary = judge(gathered, config, session=at.session, progress=progress).summary
            last = f"{summary['questions']} questions; --out FILE.parquet keeps them"
        else:
            observer = at.console if many else None
            summary = classify_into(written, gathered, config, session=at.session, observer=observer)
            last = f"{summary['questions']} questions in {written}, summary in {summary_path(written)}"
        in_words.tell_left_out(summary, at.console)
        out = None if written is None else str(written)
        return Outcome({**summary, "out": out}, [*in_words.summary_words(summary), last])

    return Run(
        work,
        folder=None,
        operations=float("inf") if many else 1.0,
        unit="shards",
        works_dry=True,
    )
