"""An interp run in a folder: `run.json`, what was read (`prompts.parquet`, `facts.parquet`, `texts.parquet`), and a
copy of what was asked for.

The folder holds one run: another one, of this or of another command, is never written over unasked. Where steps failed
the others are kept, `details.failures` says what failed with what error, and the record stays `unfinished`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...core.observer import Observer
from ...core.whole_files import Published
from ...models.decoding import ends
from ...models.provenance import backend, identity
from ...runtime.session import Session
from ...runtime.stage import Planned, Run, Stage
from .cache import Cache, part_file
from .failures import Carried
from .graph import all_steps
from .questions import prompt_table
from .run import Plan, StepResult, carry_out
from .step import Kind
from .tensor_parts import SUFFIX

INPUTS: Mapping[Kind, str] = {"questions": "prompts.parquet", "facts": "facts.parquet", "texts": "texts.parquet"}
_BY_CONTENT = frozenset({"model", "questions", "facts", "data_dir", "texts"})


def stage_of(command: str) -> Stage:
    """What the runs of `command` have in common."""
    names = [pattern for name in all_steps() for pattern in (name, f"{name}-*")]
    results = (*INPUTS.values(), *(f"{name}.parquet" for name in names), *(f"{name}{SUFFIX}" for name in names))
    return Stage(command, results, work=(), by_content=_BY_CONTENT, data_is="questions")


def planned(plan: Plan, command: str = "interp") -> Planned:
    """The run of `plan` by `command` with its record, to look for an earlier one in a folder or to begin."""
    excluded = plan.data.excluded
    return stage_of(command).plan(
        plan.config,
        model=identity(plan.model),
        data={
            "digest": plan.data.digest,
            "counts": {kind: len(data.items) for kind, data in plan.inputs.items()},
            "left_out": {status: sum(e.status == status for e in excluded) for status in {e.status for e in excluded}},
        },
        seeds={"seed": plan.config.seed},
        plan={"layers": list(plan.layers), "compared_models": [other.model.digest for other in plan.others]},
        backend=backend(plan.model),
        details={
            "end_tokens": ends.record(plan.model),
            "questions": list(plan.data.questions),
            "left_out": [{"id": e.id, "status": e.status, "reason": e.reason} for e in excluded],
            "compared_models": [identity(other.model) for other in plan.others],
        },
    )


class Incomplete(Exception):
    """Steps failed."""


def run_into(
    folder: Path,
    plan: Plan,
    *,
    cache: Cache,
    session: Session,
    fresh: bool = False,
    replace: bool = False,
    observer: Observer | None = None,
    command: str = "interp",
    again: Callable[[str], str] | None = None,
) -> Carried:
    """`carry_out` with `folder` for its results: the tables of the wanted steps as `<step>.parquet` or
    `<step>-<part>.parquet`, their tensors as `.safetensors`, and `run.json`.

    fresh: delete cached results and the run in `folder` first. replace: the latter alone. again: the command that runs
    a step again, for the record. Raises UsageError where `folder` holds another run.
    """
    begun = planned(plan, command).begin(folder, session=session, observer=observer, fresh=fresh or replace)
    with suppress(Incomplete), begun as run:
        done = carry_out(plan, cache=cache, session=run.session, fresh=fresh, observer=observer)
        for kind, data in plan.inputs.items():
            run.table(INPUTS[kind], prompt_table(data) if kind == "questions" else data.text_table())
        results = done.results
        kept = _keep(run, [results[name] for name in plan.wanted if name in results])
        steps = {n: {"key": r.key, "rows": r.rows, "not_ok": r.bad, **kept.get(n, {})} for n, r in results.items()}
        cut = {name: list(result.cut) for name, result in results.items() if result.cut}
        failures = [f.values(None if again is None else again(name)) for name, f in done.failures.items()]
        run.update(
            counts={name: result.rows for name, result in results.items()},
            details={"steps": steps, **({"cut": cut} if cut else {}), **({"failures": failures} if failures else {})},
        )
        if failures:
            raise Incomplete
    return done


def _keep(run: Run, results: Iterable[StepResult]) -> dict[str, dict[str, Any]]:
    """Copy what the steps found out of the cache. Where it lies, as `placed` says it, by step."""
    copied: dict[str, Published] = {}
    kept = {}
    for result in results:
        files = named_files(result.step, result.tables, ".parquet")
        tensors = named_files(result.step, result.tensors, SUFFIX)
        for named, suffix in ((files, ".parquet"), (tensors, SUFFIX)):
            copied |= {name: result.files[part_file(part, suffix)] for part, name in named.items()}
        kept[result.step] = placed(files, tensors)
    run.copies(copied)
    return kept


def named_files(name: str, parts: Iterable[str], suffix: str) -> dict[str, str]:
    """The file of each part of what is called `name`."""
    return {part: f"{name}-{part}{suffix}" if part else f"{name}{suffix}" for part in parts}


def placed(files: Mapping[str, str], tensors: Mapping[str, str]) -> dict[str, Any]:
    """Where what a step found lies: under `file` its only table, under `parts` several, under `tensors`."""
    only = {"file": files[""]} if set(files) == {""} else {"parts": files} if files else {}
    return only | ({"tensors": tensors} if tensors else {})
