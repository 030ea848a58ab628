"""The same analyses at several points, one after the other, and one folder for all of them.

Every point is planned, computed and cached as the ordinary run that it is; what is interrupted continues where it was.
Only the folder is of all points together: each table once, with a column for what differs, and the tensors of each
point under its name. The model of a point is let go of before that of the next one is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import BaseModel

from ...core.errors import UsageError
from ...core.observer import Observer
from ...runtime import stage
from ...runtime.plan import digest_of
from ...runtime.record import ModelPart, RunRecord
from ...runtime.run import Run
from ...runtime.session import Session
from .cache import Cache
from .costs import Estimate, estimate, tokens_of
from .failures import Carried
from .points import Axis, Point, joined
from .questions import prompt_table
from .run import Plan, StepResult, carry_out
from .run_record import INPUTS, Incomplete, named_files, placed, planned, stage_of
from .step import Kind
from .tensor_parts import SUFFIX

Again = Callable[[Point, str], str]  # the command that runs a step at a point


class Outline(NamedTuple):
    """What is known of a point before anything is computed, without its model. record: of the ordinary run at it; keys:
    of the steps; missing: those that the cache lacks; operations: of computing these."""

    point: Point
    record: RunRecord
    keys: Mapping[str, str]
    wanted: tuple[str, ...]
    missing: tuple[str, ...]
    operations: float
    notes: tuple[str, ...]
    left_out: tuple[str, ...]  # steps that nobody named
    costs: Estimate | None


class Done(NamedTuple):
    """What became of a point."""

    outline: Outline
    carried: Carried

    @property
    def point(self) -> Point:
        """Where it is."""
        return self.outline.point


def outline(point: Point, plan: Plan, cache: Cache, *, fresh: bool, costs: bool) -> Outline:
    """What is known of `plan`, which is that of `point`; costs: also what it would cost here."""
    keys = {name: step.key.digest for name, step in plan.steps.items()}
    missing = tuple(name for name, key in keys.items() if fresh or cache.find(name, key) is None)
    return Outline(
        point,
        planned(plan).record,
        keys,
        plan.wanted,
        missing,
        2.0 * plan.model.n_active_parameters * tokens_of(plan, missing),
        plan.notes,
        plan.left_out,
        estimate(plan, missing) if costs else None,
    )


def check_axes(axes: Sequence[Axis], outlines: Sequence[Outline]) -> None:
    """Raises UsageError for a sweep that no analysis depends on."""
    for axis in axes:
        keys: dict[tuple[Any, ...], set[str]] = {}
        for one in outlines:
            others = tuple(value for name, value in one.point.values.items() if name != axis.column)
            for name in one.wanted:
                keys.setdefault((*others, name), set()).add(one.keys[name])
        if axis.key and len(axis.values) > 1 and all(len(of) == 1 for of in keys.values()):
            raise UsageError(
                f"--sweep {axis.key}: no analysis of this run depends on it; name one that does with --steps"
            )


def planned_points(axes: Sequence[Axis], outlines: Sequence[Outline], config: BaseModel) -> stage.Planned:
    """The run of all points with its record, to look for an earlier one in a folder or to begin. config: what the
    points share."""
    records = [one.record for one in outlines]
    first = records[0]
    data = [record.data for record in records if record.data is not None]
    details = {
        **first.details,
        "swept": [axis.to_json() for axis in axes],
        "left_out": [
            {"point": one.point.name, **left_out} for one in outlines for left_out in one.record.details["left_out"]
        ],
        "questions": list(dict.fromkeys(id_ for record in records for id_ in record.details["questions"])),
    }
    return stage_of("interp").plan(
        config,
        model=_model(axes, [record.model for record in records if record.model is not None]),
        data={
            "digest": _common([part.digest for part in data]),
            "counts": _at_points(outlines, [part.counts for part in data]),
            "left_out": _at_points(outlines, [part.left_out for part in data]),
        },
        seeds=first.seeds,
        plan={**first.plan, "points": [{**one.point.values} for one in outlines]},
        backend=None if first.backend is None else first.backend.model_dump(),
        details=details,
    )


def run_points(
    axes: Sequence[Axis],
    outlines: Sequence[Outline],
    plan_at: Callable[[Point], Plan],
    config: BaseModel,
    *,
    out: Path | None,
    cache: Cache,
    session: Session,
    fresh: bool = False,
    observer: Observer | None = None,
    again: Again | None = None,
) -> list[Done]:
    """`carry_out` at every point, with `out`, where there is one, for the tables of all of them.

    again: the command that runs a step at a point, for the record. Raises UsageError where `out` holds another run,
    and where the tables of a step cannot be put together.
    """
    observer = Observer() if observer is None else observer
    inputs: dict[Kind, list[tuple[Point, pa.Table]]] = {}

    def carried() -> list[Done]:
        done: list[Done] = []
        for number, one in enumerate(outlines, 1):
            observer.say(f"{one.point.name} ({number} of {len(outlines)})")
            plan = plan_at(one.point)
            done.append(Done(one, carry_out(plan, cache=cache, session=session, fresh=fresh, observer=observer)))
            for kind, data in plan.inputs.items():
                read = prompt_table(data) if kind == "questions" else data.text_table()
                inputs.setdefault(kind, []).append((one.point, read))
        return done

    if out is None:
        return carried()
    begun = planned_points(axes, outlines, config).begin(out, session=session, observer=observer, fresh=fresh)
    with suppress(Incomplete), begun as run:
        done = carried()
        for kind, tables in inputs.items():
            run.table(INPUTS[kind], joined(axes, tables))
        _write(run, axes, done, again)
        if any(one.carried.failures for one in done):
            raise Incomplete
    return done


def _write(run: Run, axes: Sequence[Axis], done: Sequence[Done], again: Again | None) -> None:
    """The tables and tensors of all points, and what the record says of them."""
    steps: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in done for name in one.carried.results):
        found = [(one.point, one.carried.results[name]) for one in done if name in one.carried.results]
        bad = [status for _, result in found for status in result.bad]
        steps[name] = {
            "rows": sum(result.rows for _, result in found),
            "not_ok": {status: sum(result.bad.get(status, 0) for _, result in found) for status in sorted({*bad})},
            **(_keep(run, axes, found) if name in done[0].outline.wanted else {}),
        }
    cut = {
        f"{name} at {one.point.name}": list(result.cut)
        for one in done
        for name, result in one.carried.results.items()
        if result.cut
    }
    failures = [
        {"point": one.point.name, **failure.values(None if again is None else again(one.point, name))}
        for one in done
        for name, failure in one.carried.failures.items()
    ]
    at = [
        {
            "values": {**one.point.values},
            "steps": {n: {"key": r.key, "rows": r.rows, "not_ok": r.bad} for n, r in one.carried.results.items()},
        }
        for one in done
    ]
    run.update(
        counts={name: step["rows"] for name, step in steps.items()},
        details={
            "steps": steps,
            "points": at,
            **({"cut": cut} if cut else {}),
            **({"failures": failures} if failures else {}),
        },
    )


def _keep(run: Run, axes: Sequence[Axis], found: Sequence[tuple[Point, StepResult]]) -> Mapping[str, Any]:
    """Write what a step found. Where it lies, as `run_record.placed` says it."""
    step = found[0][1].step
    parts = list(dict.fromkeys(part for _, result in found for part in result.tables))
    files = named_files(step, parts, ".parquet")
    for part, name in files.items():
        tables = [(point, result.tables[part]) for point, result in found if part in result.tables]
        try:
            run.table(name, joined(axes, tables))
        except pa.ArrowException as error:
            raise UsageError(
                f"{step}: its tables at these points have columns of different types ({error}); run them without --out"
            ) from error
    tensors: dict[str, str] = {}
    for point, result in found:
        slug = re.sub(r"[^\w.]+", "-", point.name)
        for part, name in named_files(f"{step}-{slug}", list(result.tensors), SUFFIX).items():
            run.bytes(name, result.tensors[part].path.read_bytes())
            tensors[f"{part}, {point.name}" if part else point.name] = name
    return placed(files, tensors)


def _model(axes: Sequence[Axis], models: Sequence[ModelPart]) -> dict[str, Any]:
    """The one model; of several checkpoints what they share, under the names of the first and the last step."""
    values = models[0].model_dump()
    names = [name for axis in axes for name in axis.models]
    if len(names) > 1:
        values["name"] = f"{names[0]}..{names[-1].rpartition('@')[2]}"
    return values | {"digest": _common([model.digest for model in models])}


def _common(digests: Sequence[str | None]) -> str | None:
    """The one digest; of several the digest of their list."""
    return digests[0] if len({*digests}) == 1 else digest_of(list(digests))


def _at_points(outlines: Sequence[Outline], counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The counts, where all points have the same, else with the name of the point."""
    if all(count == counts[0] for count in counts):
        return dict(counts[0])
    named = zip(outlines, counts, strict=True)
    return {f"{what}, {one.point.name}": n for one, count in named for what, n in count.items()}
