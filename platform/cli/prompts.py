"""`mplat prompts`: the generated questions of levels 1-6 as a Parquet file of questions.

The file is the same, byte for byte, for the same arguments and pyarrow version. Without `--out` nothing is written; one
prompt of each level is shown.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .options import Json, Quiet, Seed, as_path, writable_folder
from .output import Output
from .registry import command

OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE.parquet", parser=as_path, help="File for the questions; none: show examples only."
    ),
]


@command("prompts", order=22)
def prompts(
    per_level: Annotated[int, typer.Option("--per-level", metavar="N", help="Questions for each level.")] = 100,
    seed: Seed = 0,
    split: Annotated[
        str, typer.Option("--split", help="eval: names and sentence shapes that no training text has; or train.")
    ] = "eval",
    out: OutFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate in-context questions of six levels from the facts world."""
    from ..datasets import facts
    from ..datasets.records import to_table

    output = Output(json=as_json, quiet=quiet)
    if out is not None:
        if out.suffix != ".parquet":
            raise UsageError(f"--out {out}: the questions are a Parquet file; give a name that ends in .parquet")
        if out.is_dir():
            raise UsageError(f"--out {out}: is a folder; give the name of a file")
        writable_folder(out.parent)
    questions = facts.prompts(per_level=per_level, seed=seed, split=split)
    if out is not None:
        import pyarrow.parquet as pq

        part = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
        pq.write_table(to_table(questions), part)
        part.replace(out)
    lines = []
    for level in facts.LEVELS:
        first = next(q for q in questions if q.level == level)
        lines.append(f"level {level} {first.category}:\n{first.prompt} {first.answers[0]}\n")
    where = f" in {out}" if out is not None else "; --out FILE.parquet keeps them"
    lines.append(f"{len(questions)} questions{where}")
    output.result(
        {
            "questions": len(questions),
            "per_level": per_level,
            "seed": seed,
            "split": split,
            "levels": {str(level): per_level for level in facts.LEVELS},
            "out": None if out is None else str(out),
        },
        lines[-1] if quiet else "\n".join(lines),
    )
