"""`mplat prompts`: the generated questions of levels 1-6, or what is made of them, as a Parquet file of questions.

The file is the same, byte for byte, for the same arguments and pyarrow version. Without `--out` nothing is written; one
prompt of each level is shown.
"""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UsageError, suggest
from ..core.typed_lists import parse_counts, parse_names
from .frame.command import command
from .frame.folders import refuse_other_file, writable_folder
from .frame.options import Json, Quiet, Seed, as_path
from .frame.output import Output

if TYPE_CHECKING:
    from ..datasets.records import Question

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
    controls: Annotated[
        str,
        typer.Option(
            "--controls",
            metavar="all|none|NAMES",
            help="Add questions that their text does not answer: absent_entity, absent_relation, deleted, "
            "deleted_hop_1 to 3.",
        ),
    ] = "none",
    distances: Annotated[
        str | None,
        typer.Option(
            "--distances",
            metavar="0,64,256",
            help="Instead: the questions of levels 1-3 with their evidence at these distances from the question.",
        ),
    ] = None,
    unit: Annotated[
        str, typer.Option("--distance-unit", metavar="tokens|facts", help="What distances are counted in.")
    ] = "tokens",
    shots: Annotated[int, typer.Option("--shots", metavar="K", help="Worked examples before each prompt.")] = 0,
    out: OutFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate in-context questions of six levels from the facts world."""
    from ..datasets import facts
    from ..datasets.records import to_table

    output = Output(json=as_json, quiet=quiet)
    kinds = [] if controls.strip() == "none" else parse_names(controls, facts.control_names(), option="--controls")
    far = () if distances is None else parse_counts(distances, high=facts.MAX_DISTANCE, option="--distances")
    if unit not in facts.UNITS:
        raise UsageError(f"--distance-unit {unit!r}: {suggest(unit, facts.UNITS)}")
    if not 0 <= shots <= facts.MAX_SHOTS:
        raise UsageError(f"--shots {shots}: a prompt has 0 to {facts.MAX_SHOTS} worked examples")
    if out is not None:
        refuse_other_file(out, ".parquet", "the questions are a Parquet file")
        writable_folder(out.parent)
    questions = facts.prompts(per_level, seed, split, controls=kinds, distances=far, unit=unit, shots=shots)
    if out is not None:
        import pyarrow.parquet as pq

        part = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
        pq.write_table(to_table(questions), part)
        part.replace(out)
    asked = [q for q in questions if not q.control]
    lines = [_example(q) for q in {q.level: q for q in reversed(asked)}.values()][::-1]
    counted = Counter(q.control for q in questions if q.control)
    described = f"{len(asked)} questions" + "".join(f", {n} {kind}" for kind, n in counted.items())
    where = f" in {out}" if out is not None else "; --out FILE.parquet keeps them"
    lines.append(described + where)
    values: dict[str, Any] = {
        "questions": len(asked),
        "per_level": per_level,
        "seed": seed,
        "split": split,
        "levels": {str(level): n for level, n in Counter(q.level for q in asked).items()},
        "out": None if out is None else str(out),
    }
    if kinds:
        values["controls"] = {kind: counted[kind] for kind in kinds}
    if far:
        values["distances"] = [_reached(asked, distance, unit) for distance in far]
    if shots:
        values["shots"] = shots
    output.result(values, lines[-1] if quiet else "\n".join(lines))


def _example(question: Question) -> str:
    return f"level {question.level} {question.category}:\n{question.prompt} {question.answers[0]}\n"


def _reached(asked: list[Question], distance: int, unit: str) -> dict[str, Any]:
    """How near the texts came to a distance."""
    there = [q.distance_tokens or 0 for q in asked if q.distance_target == distance]
    return {"distance": distance, "unit": unit, "questions": len(there), "tokens": [min(there), max(there)]}
